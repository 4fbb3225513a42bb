//! Which versions of the Gateway API are read.

use super::{Condition, ConditionType, Reason};
use crate::index::Bundles;

/// The newest minor version of v1.
const NEWEST: u32 = 6;

/// The condition `SupportedVersion` of a GatewayClass: about the CRDs that the cluster has. Those of another version are served as far as
/// they are understood.
pub fn supported(bundles: &Bundles) -> Condition {
    let odd: Vec<String> = bundles
        .iter()
        .filter(|(_, bundle)| !bundle.as_deref().is_some_and(is_read))
        .map(|(plural, bundle)| format!("{plural} ({})", bundle.as_deref().unwrap_or("no version")))
        .collect();
    if odd.is_empty() {
        let message = format!("Every version of the Gateway API up to v1.{NEWEST} is read");
        return Condition::yes(ConditionType::SupportedVersion, Reason::SupportedVersion, message);
    }
    let message = format!(
        "CRDs of versions other than v1.0 to v1.{NEWEST} are served as far as they are understood: {}",
        odd.join(", ")
    );
    Condition::no(ConditionType::SupportedVersion, Reason::UnsupportedVersion, message)
}

/// As `v1.6.3`, `v1.6.0-rc.1`; what lies before v1.0 had other kinds.
fn is_read(bundle: &str) -> bool {
    let minor =
        bundle.strip_prefix("v1.").and_then(|rest| rest.split(['.', '-']).next()).and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor: u32| minor <= NEWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crds_of_versions_that_are_not_known_are_named() {
        let crds = |versions: &[(&str, Option<&str>)]| {
            let crds = versions.iter().map(|(plural, bundle)| ((*plural).into(), bundle.map(Into::into)));
            supported(&crds.collect())
        };
        assert!(crds(&[]).status);
        assert!(
            crds(&[("gateways", Some("v1.6.3")), ("httproutes", Some("v1.0.0")), ("a", Some("v1.5.0-rc.1"))]).status
        );
        for odd in [None, Some("v1.7.0"), Some("v0.8.1"), Some("v1.x"), Some("v2.0.0")] {
            let condition = crds(&[("gateways", Some("v1.6.3")), ("tcproutes", odd)]);
            assert!(!condition.status && condition.reason == Reason::UnsupportedVersion, "{odd:?}");
            assert!(
                condition.message.contains("tcproutes") && !condition.message.contains("gateways"),
                "{}",
                condition.message
            );
        }
    }
}
