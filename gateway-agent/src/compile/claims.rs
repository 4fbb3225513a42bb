//! Who has which port of which address, and which host names of it: Gateways may share addresses.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::gateways::Plan;
use super::hostnames::{Pattern, covering};
use super::listeners::{Fate, ListenerPlan};
use super::{Reason, conflicts};
use crate::index::{Gateway, Listener, ListenerProtocol, ListenerSet};
use crate::ir::{HostName, Protocol};

/// The ports that programmed listeners have.
#[derive(Debug, Default)]
pub struct Claims {
    ports: HashMap<(IpAddr, u16, Protocol), Claim>,
}

#[derive(Debug)]
enum Claim {
    Whole(Holder),
    /// Listeners that are all in the clear or all by TLS, each with its own hostname.
    Names {
        tls: bool,
        names: HashMap<HostName, Holder>,
    },
}

#[derive(Clone, Debug)]
pub struct Holder {
    pub gateway: Arc<Gateway>,
    pub set: Option<Arc<ListenerSet>>,
    pub listener: Arc<Listener>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.set {
            Some(set) => write!(f, "listener {} of ListenerSet {}", self.listener.name, set.meta.name),
            None => write!(f, "listener {} of Gateway {}", self.listener.name, self.gateway.meta.name),
        }
    }
}

/// Gateways that share an address must not want the same of it: the first by precedence keeps it. So it is with the ListenerSets of a
/// Gateway, which come after the Gateway itself (ListenerSet, "listeners"). What is left to a Gateway or ListenerSet must not be in conflict
/// with itself.
pub fn settle(plans: &mut [Plan]) -> Claims {
    let listeners = plans.iter().map(|p| p.addresses.len() * p.listeners.len()).sum();
    let mut claims = Claims { ports: HashMap::with_capacity(listeners) };
    for Plan { gateway, addresses, sets, listeners, .. } in plans {
        for listeners in listeners.chunk_by_mut(|a, b| a.set == b.set) {
            let holder = |listener: &ListenerPlan| {
                let set = listener.set.map(|set| Arc::clone(&sets[set].set));
                Holder { gateway: Arc::clone(gateway), set, listener: Arc::clone(&listener.spec) }
            };
            for listener in listeners.iter_mut().filter(|l| l.holds_its_place()) {
                let holder = holder(listener);
                if let Some((reason, message)) =
                    addresses.iter().find_map(|address| claims.why_taken(*address, &holder))
                {
                    listener.fate = Fate::Conflicted(reason, message);
                }
            }
            conflicts::mark_conflicts(listeners);
            for listener in listeners.iter().filter(|l| l.holds_its_place()) {
                let holder = holder(listener);
                addresses.iter().for_each(|address| claims.take(*address, holder.clone()));
            }
        }
    }
    claims
}

impl Claims {
    fn why_taken(&self, address: IpAddr, wants: &Holder) -> Option<(Reason, String)> {
        let (port, protocol) = (wants.listener.port, protocol(&wants.listener));
        let claim = self.ports.get(&(address, port, protocol))?;
        let hostname = wants.listener.protocol.hostname();
        let (reason, of, holder, other) = match (claim, hostname) {
            (Claim::Names { tls, names }, Some(host)) if *tls == is_tls(&wants.listener) => {
                let of = format!("{} on ", conflicts::wanted(&wants.listener.protocol, host));
                (Reason::HostnameConflict, of, names.get(host)?, "hostname, port or address")
            }
            (Claim::Whole(holder), _) => (Reason::ProtocolConflict, String::new(), holder, "port or address"),
            (Claim::Names { names, .. }, _) => {
                let of_set = |h: &Holder| h.set.as_ref().map(|set| set.meta.precedence());
                let order = |h: &&Holder| (h.gateway.meta.precedence(), of_set(h), h.listener.name.clone());
                let first = names.values().min_by_key(order)?;
                (Reason::ProtocolConflict, String::new(), first, "port or address")
            }
        };
        let order = match (&wants.set, Arc::ptr_eq(&wants.gateway, &holder.gateway)) {
            (Some(_), true) => "the Gateway itself, then the older ListenerSet, then by name",
            _ => "the older, then by name",
        };
        let message = format!(
            "{of}{protocol} port {port} of {address} belongs to {holder}, which comes first ({order}); choose another {other}"
        );
        Some((reason, message))
    }

    fn take(&mut self, address: IpAddr, holder: Holder) {
        let entry = self.ports.entry((address, holder.listener.port, protocol(&holder.listener)));
        match (entry, holder.listener.protocol.hostname().cloned()) {
            (Entry::Occupied(mut entry), Some(host)) => {
                if let Claim::Names { names, .. } = entry.get_mut() {
                    names.insert(host, holder);
                }
            }
            (Entry::Vacant(entry), Some(host)) => {
                let tls = is_tls(&holder.listener);
                entry.insert(Claim::Names { tls, names: HashMap::from([(host, holder)]) });
            }
            (entry, None) => drop(entry.insert(Claim::Whole(holder))),
        }
    }

    /// The more specific listener that takes all of `host` away from another on an address: listener isolation.
    pub fn taken_away(&self, address: IpAddr, listener: &Listener, host: &HostName) -> Option<&Holder> {
        let own = Pattern::from(listener.protocol.hostname()?);
        match self.ports.get(&(address, listener.port, Protocol::Tcp))? {
            Claim::Names { names, .. } if names.len() > 1 => {
                covering(host).take_while(|pattern| *pattern != own).find_map(|pattern| names.get(&pattern))
            }
            Claim::Names { .. } | Claim::Whole(_) => None,
        }
    }
}

fn protocol(listener: &Listener) -> Protocol {
    match listener.protocol {
        ListenerProtocol::Forwarded(protocol) => protocol,
        _ => Protocol::Tcp,
    }
}

fn is_tls(listener: &Listener) -> bool {
    !matches!(listener.protocol, ListenerProtocol::Http { .. })
}
