//! Listeners by TLS whose hostnames or certificates have names in common: no conflict, but worth knowing. A client may send requests for one
//! of them over its connection to the other (RFC 9113 section 9.1.1), and gets 421 for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ptr;
use std::sync::Arc;

use hashbrown::HashMap;
use rustls::pki_types::CertificateDer;

use super::claims::Holder;
use super::gateways::Plan;
use super::hostnames::covering;
use super::listeners::{Fate, ListenerPlan};
use crate::index::ListenerProtocol;
use crate::ir::{Certificate, HostName};

/// More are not told of.
const MOST: usize = 9;

/// What a listener has names in common with, as messages call it.
#[derive(Default)]
pub struct Overlaps {
    pub hostnames: Vec<String>,
    pub certificates: Vec<String>,
}

/// A Gateway among the plans, and its listener.
type Place = (usize, usize);

/// Within one object, among the ListenerSets of a Gateway and among Gateways that share an address.
pub fn mark(plans: &mut [Plan]) {
    let mut by_port: HashMap<(IpAddr, u16), Vec<Place>> = HashMap::new();
    for (i, plan) in plans.iter().enumerate() {
        for (j, listener) in plan.listeners.iter().enumerate().filter(|(_, listener)| is_by_tls(listener)) {
            for address in &plan.addresses {
                by_port.entry((*address, listener.spec.port)).or_default().push((i, j));
            }
        }
    }
    // A Gateway mostly has the same on each of its addresses. Sorted, for only the first of many are told.
    let groups: BTreeSet<Vec<Place>> = by_port.into_values().filter(|group| group.len() > 1).collect();
    let (mut by_hostname, mut by_certificate) = (Others::new(), Others::new());
    for group in groups {
        let listeners = || group.iter().map(|&(i, j)| ((i, j), &plans[i].listeners[j]));
        let hostnames: Vec<_> = listeners().map(|(place, listener)| (place, listener.hostname().clone())).collect();
        meet(&hostnames, |name| covering(name).map(HostName::from).collect(), &mut by_hostname);
        let subjects: Vec<_> =
            listeners().flat_map(|(place, listener)| subjects(listener).map(move |name| (place, name))).collect();
        meet(&subjects, as_certificates_cover, &mut by_certificate);
    }
    let told = |others: Others| -> Vec<(Place, Vec<String>)> {
        let told = |(place, others): (Place, BTreeSet<Place>)| {
            (place, others.into_iter().map(|other| title(plans, place.0, other)).collect())
        };
        others.into_iter().map(told).collect()
    };
    let (by_hostname, by_certificate) = (told(by_hostname), told(by_certificate));
    for ((i, j), others) in by_hostname {
        plans[i].listeners[j].overlaps.hostnames = others;
    }
    for ((i, j), others) in by_certificate {
        plans[i].listeners[j].overlaps.certificates = others;
    }
}

fn is_by_tls(listener: &ListenerPlan) -> bool {
    let by_tls = matches!(listener.spec.protocol, ListenerProtocol::Https { .. } | ListenerProtocol::Tls(_));
    by_tls && matches!(listener.fate, Fate::Programmed)
}

/// The subjectAltNames of what the listener shows to clients.
fn subjects(listener: &ListenerPlan) -> impl Iterator<Item = HostName> {
    let certificates = listener.certificates.iter().flatten();
    certificates.flat_map(|certificate: &Arc<Certificate>| {
        let der = certificate.chain.first().map_or(&[][..], Vec::as_slice);
        let der = CertificateDer::from(der);
        let names: Vec<HostName> = match webpki::EndEntityCert::try_from(&der) {
            Ok(certificate) => certificate.valid_dns_names().map(subject).collect(),
            Err(_) => Vec::new(),
        };
        names
    })
}

fn subject(name: &str) -> HostName {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix("*.") {
        Some(rest) => HostName::Wildcard(rest.into()),
        None => HostName::Exact(name.into()),
    }
}

/// A wildcard of a certificate stands for one label (RFC 9525 section 6.3).
fn as_certificates_cover(name: &HostName) -> Vec<HostName> {
    let wider = match name {
        HostName::Exact(name) => name.split_once('.').map(|(_, rest)| HostName::Wildcard(rest.into())),
        HostName::Wildcard(_) | HostName::Any => None,
    };
    [name.clone()].into_iter().chain(wider).collect()
}

type Others = BTreeMap<Place, BTreeSet<Place>>;

/// Notes whose names meet. `wider`: the names that hold all of one, itself included. Bounded for each name, so that thousands of
/// listeners with one certificate cost what they are: of so many that share a name each finds enough others by itself.
fn meet(listed: &[(Place, HostName)], wider: impl Fn(&HostName) -> Vec<HostName>, others: &mut Others) {
    let mut by_name: HashMap<&HostName, Vec<Place>> = HashMap::with_capacity(listed.len());
    for (place, name) in listed {
        by_name.entry(name).or_default().push(*place);
    }
    let mut note = |of: Place, other: Place| {
        let known = others.entry(of).or_default();
        if known.len() < MOST {
            known.insert(other);
        }
    };
    for (place, name) in listed {
        for wide in wider(name) {
            for other in by_name.get(&wide).into_iter().flatten().take(MOST + 1).filter(|other| *other != place) {
                note(*place, *other);
                note(*other, *place);
            }
        }
    }
}

/// The name of a listener as it is told to those of a Gateway.
fn title(plans: &[Plan], to: usize, (i, j): Place) -> String {
    let plan = &plans[i];
    let listener = &plan.listeners[j];
    let set = listener.set.map(|set| Arc::clone(&plan.sets[set].set));
    match ptr::eq(plan, &plans[to]) && set.is_none() {
        true => listener.spec.name.to_string(),
        false => Holder { gateway: Arc::clone(&plan.gateway), set, listener: Arc::clone(&listener.spec) }.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listed: &[&str]) -> Vec<(Place, HostName)> {
        listed.iter().enumerate().map(|(i, name)| ((0, i), subject(name))).collect()
    }

    fn met(listed: &[&str]) -> Vec<(usize, Vec<usize>)> {
        let mut others = Others::new();
        meet(&names(listed), as_certificates_cover, &mut others);
        others.into_iter().map(|((_, i), others)| (i, others.into_iter().map(|(_, j)| j).collect())).collect()
    }

    #[test]
    fn a_wildcard_of_a_certificate_stands_for_one_label() {
        assert_eq!(
            met(&["*.Example.com", "a.example.com", "a.b.example.com", "example.com"]),
            [(0, vec![1]), (1, vec![0])]
        );
        assert_eq!(met(&["*.example.com", "*.b.example.com"]), []);
        assert_eq!(met(&["*.example.com", "*.example.com"]), [(0, vec![1]), (1, vec![0])]);
    }

    #[test]
    fn thousands_that_share_a_name_know_of_a_few_each() {
        let met = met(&["*.example.com"; 5_000]);
        assert_eq!(met.len(), 5_000);
        assert!(met.iter().all(|(_, others)| others.len() == MOST));
    }
}
