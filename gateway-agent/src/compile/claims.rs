//! Who has which port of which address, and which host names of it: Gateways may share addresses.

use std::net::IpAddr;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::Reason;
use super::gateways::Plan;
use super::hostnames::{Pattern, covering};
use super::listeners::Fate;
use crate::index::{Gateway, Listener, ListenerProtocol};
use crate::ir::{HostName, Protocol};

/// The ports that programmed listeners have.
pub struct Claims<'a> {
    ports: HashMap<(IpAddr, u16, Protocol), Claim<'a>>,
}

enum Claim<'a> {
    Whole(Holder<'a>),
    /// TLS listeners, each with its own hostname.
    Names(HashMap<Pattern<'a>, Holder<'a>>),
}

#[derive(Clone, Copy)]
pub struct Holder<'a> {
    pub gateway: &'a Gateway,
    pub listener: &'a Listener,
}

/// Gateways that share an address must not want the same of it: the first by precedence keeps it.
pub fn settle<'a>(plans: &mut [Plan<'a>]) -> Claims<'a> {
    let listeners = plans.iter().map(|p| p.addresses.len() * p.listeners.len()).sum();
    let mut claims = Claims { ports: HashMap::with_capacity(listeners) };
    for Plan { gateway, addresses, listeners, .. } in plans {
        for listener in listeners.iter_mut().filter(|l| l.holds_its_place()) {
            let holder = Holder { gateway, listener: listener.spec };
            match addresses.iter().find_map(|address| claims.why_taken(*address, holder)) {
                Some((reason, message)) => listener.fate = Fate::Conflicted(reason, message),
                None => addresses.iter().for_each(|address| claims.take(*address, holder)),
            }
        }
    }
    claims
}

impl<'a> Claims<'a> {
    fn why_taken(&self, address: IpAddr, wants: Holder<'a>) -> Option<(Reason, String)> {
        let (port, protocol) = (wants.listener.port, protocol(wants.listener));
        let claim = self.ports.get(&(address, port, protocol))?;
        let (reason, of, holder, other) = match (claim, hostname(wants.listener)) {
            (Claim::Whole(holder), _) => (Reason::ProtocolConflict, String::new(), *holder, "port or address"),
            (Claim::Names(names), None) => {
                let first = names.values().min_by_key(|h| h.gateway.meta.precedence())?;
                (Reason::ProtocolConflict, String::new(), *first, "port or address")
            }
            (Claim::Names(names), Some(host)) => {
                let of = match host {
                    HostName::Any => "TLS for every host name on ".to_owned(),
                    host => format!("TLS for {host} on "),
                };
                (Reason::HostnameConflict, of, *names.get(&Pattern::from(host))?, "hostname, port or address")
            }
        };
        let message = format!(
            "{of}{protocol} port {port} of {address} belongs to listener {} of Gateway {}, which comes first \
             (the older, then by name); choose another {other}",
            holder.listener.name, holder.gateway.meta.name
        );
        Some((reason, message))
    }

    fn take(&mut self, address: IpAddr, holder: Holder<'a>) {
        let entry = self.ports.entry((address, holder.listener.port, protocol(holder.listener)));
        match (entry, hostname(holder.listener)) {
            (Entry::Occupied(mut entry), Some(host)) => {
                if let Claim::Names(names) = entry.get_mut() {
                    names.insert(host.into(), holder);
                }
            }
            (Entry::Vacant(entry), Some(host)) => {
                entry.insert(Claim::Names(HashMap::from([(host.into(), holder)])));
            }
            (entry, None) => drop(entry.insert(Claim::Whole(holder))),
        }
    }

    /// The more specific listener that takes all of `host` away from a TLS listener on an address: listener isolation.
    pub fn taken_away(&self, address: IpAddr, listener: &Listener, host: &HostName) -> Option<Holder<'a>> {
        let own = Pattern::from(hostname(listener)?);
        match self.ports.get(&(address, listener.port, Protocol::Tcp))? {
            Claim::Names(names) if names.len() > 1 => {
                covering(host).take_while(|pattern| *pattern != own).find_map(|pattern| names.get(&pattern)).copied()
            }
            Claim::Names(_) | Claim::Whole(_) => None,
        }
    }
}

fn protocol(listener: &Listener) -> Protocol {
    match listener.protocol {
        ListenerProtocol::Forwarded(protocol) => protocol,
        _ => Protocol::Tcp,
    }
}

/// `None`: it does not go by host names.
fn hostname(listener: &Listener) -> Option<&HostName> {
    match &listener.protocol {
        ListenerProtocol::Tls(tls) => Some(&tls.hostname),
        _ => None,
    }
}
