//! BackendTLSPolicies.

use std::sync::Arc;

use super::gateway::authority_ref;
use super::hostname::hostname;
use super::http::precise_hostname;
use super::read::{self, Reader};
use super::yaml::Node;
use crate::index::{PolicyTarget, Trust};
use crate::ir::HostName;
use crate::ir::http::Identity;

type Validation = (Arc<str>, Box<[Identity]>, Trust);

/// The validation is `None` if something is wrong with it.
pub fn spec(reader: &mut Reader, node: &Node) -> Option<(Box<[PolicyTarget]>, Option<Validation>)> {
    reader.fields(node, |f| {
        let targets = f.required("targetRefs", |r, n| read::items(r, n, &mut target));
        for (key, _) in f.optional("options", read::strings).unwrap_or_default() {
            f.warn_at("options", format!("Sluice has no option {key}; ignored"));
        }
        let validation = f.required("validation", validation);
        let targets = targets?;
        if targets.is_empty() {
            f.error_at("targetRefs", "needs a Service that the policy is for");
        }
        for (i, target) in targets.iter().enumerate() {
            let same = |other: &&PolicyTarget| {
                let (group, kind, name) = (&other.group, &other.kind, &other.name);
                (group, kind, name) == (&target.group, &target.kind, &target.name)
            };
            for other in targets[..i].iter().filter(same) {
                let name = &target.name;
                if other.section == target.section {
                    f.error_at(
                        "targetRefs",
                        format!("{name} is there twice; leave one, or give each another sectionName"),
                    );
                } else if other.section.is_none() || target.section.is_none() {
                    f.error_at(
                        "targetRefs",
                        format!("{name} is there with and without sectionName; give every one of them a sectionName"),
                    );
                }
            }
        }
        Some((targets, validation))
    })
}

fn target(reader: &mut Reader, node: &Node) -> Option<PolicyTarget> {
    reader.fields(node, |f| {
        let group = f.required("group", read::text);
        let kind = f.required("kind", read::name);
        let name = f.required("name", read::name);
        let section = f.optional("sectionName", read::text).filter(|section| !section.is_empty());
        Some(PolicyTarget { group: group?, kind: kind?, name: name?, section })
    })
}

fn validation(reader: &mut Reader, node: &Node) -> Option<Validation> {
    reader.fields(node, |f| {
        let server_name = f.required("hostname", precise_hostname);
        let identities = f.list("subjectAltNames", identity);
        let these = f.list("caCertificateRefs", |r, n| r.fields(n, |f| authority_ref(f, false)));
        let well_known = f.optional("wellKnownCACertificates", read::text).filter(|name| !name.is_empty());
        let trust = match well_known {
            Some(name) if &*name == "System" => Trust::System,
            Some(name) => Trust::Unknown(name),
            None => Trust::These(these.clone()),
        };
        match (&trust, these.is_empty()) {
            (Trust::These(_), true) => {
                let message = "is missing, as is wellKnownCACertificates; one of them must say whom to trust";
                f.error_at("caCertificateRefs", message);
            }
            (Trust::System | Trust::Unknown(_), false) => {
                f.error_at("wellKnownCACertificates", "cannot stand beside caCertificateRefs; leave one of them");
            }
            _ => {}
        }
        Some((server_name?, identities, trust))
    })
}

fn identity(reader: &mut Reader, node: &Node) -> Option<Identity> {
    reader.fields(node, |f| {
        let dns = f.required("type", |r, n| read::one_of(r, n, &[("Hostname", true), ("URI", false)]))?;
        let other = if dns { "uri" } else { "hostname" };
        if f.has(other) {
            f.error_at(other, "does not go with the type; remove it, or change the type");
        }
        if dns {
            let name = f.required("hostname", hostname)?;
            return Some(Identity::Dns(match name {
                HostName::Exact(name) => name,
                wildcard => wildcard.to_string().into(),
            }));
        }
        f.required("uri", |r, n| {
            let uri = read::name(r, n)?;
            if !uri.split_once(':').is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty()) {
                r.error(
                    n.at,
                    format!("\"{uri}\" is no URI; write it with its scheme, as in spiffe://example.com/ns/shop"),
                );
            }
            Some(uri)
        })
        .map(Identity::Uri)
    })
}
