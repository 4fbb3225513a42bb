//! The method of a gRPC call: its path is `/service/method`.

use super::Text;

/// Neither is given: every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcMethodMatch {
    pub service: Option<Text>,
    pub method: Option<Text>,
}

impl GrpcMethodMatch {
    pub fn holds(&self, path: &str) -> bool {
        let Some((service, method)) = split(path) else { return false };
        let holds = |wanted: &Option<Text>, part: &str| wanted.as_ref().is_none_or(|text| text.holds(part.as_bytes()));
        holds(&self.service, service) && holds(&self.method, method)
    }
}

/// Service and method.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_any() {
        let exact = |text: &str| Some(Text::Exact(text.into()));
        let path = "/shop.Cart/Add";
        assert!(GrpcMethodMatch { service: None, method: None }.holds(path));
        assert!(GrpcMethodMatch { service: exact("shop.Cart"), method: None }.holds(path));
        assert!(GrpcMethodMatch { service: None, method: exact("Add") }.holds(path));
        assert!(!GrpcMethodMatch { service: exact("shop"), method: exact("Add") }.holds(path));
        assert!(!GrpcMethodMatch { service: None, method: None }.holds("/shop.Cart"));
    }
}
