//! What becomes of a call of gRPC: its own status, which the status of HTTP says nothing of.

use http::{HeaderMap, HeaderValue, StatusCode};

/// The status codes of gRPC. Their numbers are their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl Status {
    pub const ALL: [Status; 17] = [
        Status::Ok,
        Status::Cancelled,
        Status::Unknown,
        Status::InvalidArgument,
        Status::DeadlineExceeded,
        Status::NotFound,
        Status::AlreadyExists,
        Status::PermissionDenied,
        Status::ResourceExhausted,
        Status::FailedPrecondition,
        Status::Aborted,
        Status::OutOfRange,
        Status::Unimplemented,
        Status::Internal,
        Status::Unavailable,
        Status::DataLoss,
        Status::Unauthenticated,
    ];

    /// As trailers have it, or the headers of an answer that has nothing else. What is no code is taken for `Unknown`, as by gRPC's libraries.
    pub fn told(fields: &HeaderMap) -> Option<Status> {
        let number = |value: &HeaderValue| value.to_str().ok()?.parse::<usize>().ok();
        let told = fields.get("grpc-status")?;
        Some(number(told).and_then(|number| Status::ALL.get(number).copied()).unwrap_or(Status::Unknown))
    }

    /// Of an answer without one ("HTTP to gRPC Status Code Mapping").
    pub fn of_http(status: StatusCode) -> Status {
        match status.as_u16() {
            400 => Status::Internal,
            401 => Status::Unauthenticated,
            403 => Status::PermissionDenied,
            404 => Status::Unimplemented,
            429 | 502..=504 => Status::Unavailable,
            _ => Status::Unknown,
        }
    }

    pub fn number(self) -> u8 {
        self as u8
    }

    /// The first digit of the status that the same would have by HTTP (google/rpc/code.proto).
    pub fn class(self) -> u8 {
        match self {
            Status::Ok => 2,
            Status::Unknown
            | Status::DeadlineExceeded
            | Status::Unimplemented
            | Status::Internal
            | Status::Unavailable
            | Status::DataLoss => 5,
            Status::Cancelled
            | Status::InvalidArgument
            | Status::NotFound
            | Status::AlreadyExists
            | Status::PermissionDenied
            | Status::ResourceExhausted
            | Status::FailedPrecondition
            | Status::Aborted
            | Status::OutOfRange
            | Status::Unauthenticated => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        for (number, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(status.number()), number);
        }
    }

    #[test]
    fn a_status_is_read_from_fields() {
        let told = |value: &'static str| {
            Status::told(&HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(value))]))
        };
        assert_eq!((told("0"), told("16")), (Some(Status::Ok), Some(Status::Unauthenticated)));
        assert_eq!((told("17"), told("x")), (Some(Status::Unknown), Some(Status::Unknown)));
        assert_eq!(Status::told(&HeaderMap::new()), None);
    }
}
