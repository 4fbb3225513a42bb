//! What the proxy has done, for metrics and people.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a connection was not forwarded. Where the kernel side has the same reason, it has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refusal {
    /// The kernel has neither spliced nor steered it: somebody has found the port.
    Unexplained,
    TooManyConnections,
    NotTls,
    MalformedHello,
    /// A ClientHello that is larger than 64 KiB, or in that many records.
    HelloTooLarge,
    /// Other large ClientHellos under way take up all the room that there is for them.
    TooManyHellos,
    /// The client ended its side before the ClientHello was whole.
    HelloAbandoned,
    HelloTimeout,
    UnrecognizedName,
    InvalidBackend,
    NoBackend,
    BackendSilent,
    /// The client does not accept the certificate, has no version or cipher in common, or has gone.
    HandshakeFailed,
    HandshakeTimeout,
    /// The listener wants a PROXY protocol header first, and what came is none.
    NotProxied,
}

impl Refusal {
    pub const ALL: [Refusal; 15] = [
        Refusal::Unexplained,
        Refusal::TooManyConnections,
        Refusal::NotTls,
        Refusal::MalformedHello,
        Refusal::HelloTooLarge,
        Refusal::TooManyHellos,
        Refusal::HelloAbandoned,
        Refusal::HelloTimeout,
        Refusal::UnrecognizedName,
        Refusal::InvalidBackend,
        Refusal::NoBackend,
        Refusal::BackendSilent,
        Refusal::HandshakeFailed,
        Refusal::HandshakeTimeout,
        Refusal::NotProxied,
    ];

    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Unexplained => "unexplained",
            Refusal::TooManyConnections => "too_many_connections",
            Refusal::NotTls => "not_tls",
            Refusal::MalformedHello => "malformed_hello",
            Refusal::HelloTooLarge => "hello_too_large",
            Refusal::TooManyHellos => "too_many_hellos",
            Refusal::HelloAbandoned => "hello_abandoned",
            Refusal::HelloTimeout => "hello_timeout",
            Refusal::UnrecognizedName => "unrecognized_name",
            Refusal::InvalidBackend => "invalid_backend",
            Refusal::NoBackend => "no_backend",
            Refusal::BackendSilent => "backend_silent",
            Refusal::HandshakeFailed => "handshake_failed",
            Refusal::HandshakeTimeout => "handshake_timeout",
            Refusal::NotProxied => "not_proxied",
        }
    }
}

#[derive(Debug)]
pub struct Counters {
    /// The most at a time.
    capacity: usize,
    pub accepted: Count,
    pub closed: Count,
    /// Passed on to a backend as they came.
    pub relayed: Count,
    /// Passed on after TLS.
    pub terminated: Count,
    /// Bytes of the payload as the backend has it, from the client and to it.
    pub bytes_in: Count,
    pub bytes_out: Count,
    /// Backends that did not take a connection.
    pub connects_failed: Count,
    refused: [Count; Refusal::ALL.len()],
}

impl Counters {
    pub fn new(capacity: usize) -> Counters {
        Counters {
            capacity,
            accepted: Count::default(),
            closed: Count::default(),
            relayed: Count::default(),
            terminated: Count::default(),
            bytes_in: Count::default(),
            bytes_out: Count::default(),
            connects_failed: Count::default(),
            refused: Default::default(),
        }
    }

    pub fn refuse(&self, reason: Refusal) {
        self.refused[reason as usize].add(1);
    }

    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize].get()
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Connections that there are.
    pub fn live(&self) -> u64 {
        // In this order, so that it is never below zero.
        let closed = self.closed.get();
        self.accepted.get().saturating_sub(closed)
    }
}

#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_count_and_name() {
        let counters = Counters::new(1);
        for (i, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert_eq!(Refusal::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
            counters.refuse(reason);
            assert_eq!(counters.refused(reason), 1);
        }
    }
}
