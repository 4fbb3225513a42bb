//! What would happen to a TLS connection, as the maps have it: the same steps as the programs take, told.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gateway_common::{
    BackendSet, FlowKey, Listener, ListenerKey, Reason, SniKey, SniName, agent_backend, hash, listener_kind, protocol,
    server_name, slot, sni_mode,
};
use serde::{Deserialize, Serialize};

use super::dump::{Routes, backend_name, members, mode, name_text, socket};
use super::{Snapshot, view};
use crate::emit::maps::address;

/// A connection that somebody thinks of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Empty: the client names no server.
    pub name: String,
    pub from: Option<IpAddr>,
    pub from_port: Option<u16>,
    /// `None`: every address and port with a TLS listener.
    pub to: Option<SocketAddr>,
}

/// The story of a connection to one address and port.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    pub gateway: SocketAddr,
    /// As SNI is asked for it: in lower case.
    pub name: String,
    /// What the port is; `None`: nothing.
    pub kind: Option<&'static str>,
    /// Those that have server names there.
    pub listeners: Vec<String>,
    /// Labels after the asterisk of the wildcard names there; 0 is the name of everybody.
    pub wildcards: Vec<u32>,
    /// Names that are looked up, the first that is there wins.
    pub candidates: Vec<Candidate>,
    /// Other names there, a few.
    pub others: Vec<Other>,
    pub others_left_out: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<Set>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pick: Option<Pick>,
    pub outcome: Outcome,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    pub name: String,
    /// What became of it.
    pub verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    pub mode: &'static str,
    pub backend_set: u32,
    pub hits: u64,
}

#[derive(Serialize)]
pub struct Other {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    pub why: String,
}

#[derive(Serialize)]
pub struct Set {
    pub id: u32,
    pub members: Vec<view::Member>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pick {
    /// Of the 5-tuple, hexadecimal.
    pub hash: String,
    pub slot: u32,
    pub slots: u16,
    /// In the nested table, if the slot leads there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested_slot: Option<u32>,
    pub backend: u32,
    pub name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "to")]
pub enum Outcome {
    /// To one of the set, or to the one that was picked.
    Passthrough(String),
    /// To the agent, which ends TLS.
    Terminate(String),
    Refused(&'static str),
    /// No TLS listener: the server name plays no part.
    Other(String),
}

/// Other names that are told.
const OTHERS: usize = 12;

pub fn trace(snapshot: &Snapshot, routes: &Routes, question: &Question) -> io::Result<Vec<Trace>> {
    let mut ports: Vec<(ListenerKey, Option<Listener>)> = Vec::new();
    match question.to {
        Some(to) => {
            let key = key(to);
            ports.push((key, snapshot.contents.listener(&key)?));
        }
        None => snapshot.contents.listeners(|key, value| {
            let family = question.from.is_none_or(|from| from.is_ipv4() == key.address.is_v4());
            if value.kind == listener_kind::TLS && family {
                ports.push((*key, Some(*value)));
            }
        })?,
    }
    ports.sort_unstable_by_key(|(key, _)| *key);
    ports.into_iter().map(|(key, value)| Tracer { snapshot, routes, question, key }.port(value)).collect()
}

fn key(at: SocketAddr) -> ListenerKey {
    ListenerKey { address: address(at.ip()), port: at.port(), protocol: protocol::TCP, _pad: [0; 5] }
}

struct Tracer<'a> {
    snapshot: &'a Snapshot,
    routes: &'a Routes,
    question: &'a Question,
    key: ListenerKey,
}

impl Tracer<'_> {
    fn port(&self, value: Option<Listener>) -> io::Result<Trace> {
        let name = self.question.name.to_ascii_lowercase();
        let mut trace = Trace {
            gateway: socket(self.key.address, self.key.port),
            name,
            kind: None,
            listeners: Vec::new(),
            wildcards: Vec::new(),
            candidates: Vec::new(),
            others: Vec::new(),
            others_left_out: 0,
            set: None,
            pick: None,
            outcome: Outcome::Refused(Reason::NoListener.name()),
        };
        let Some(value) = value else {
            let exclusive = ListenerKey { address: self.key.address, ..ListenerKey::default() };
            let exclusive = self.snapshot.contents.listener(&exclusive)?;
            if exclusive.is_none_or(|l| l.kind != listener_kind::EXCLUSIVE) {
                trace.outcome = Outcome::Other("no listener there: left to the node".to_owned());
            }
            return Ok(trace);
        };
        if value.kind == listener_kind::L7 {
            trace.kind = Some("L7");
            trace.outcome = Outcome::Other("the agent answers, by the Host of each request".to_owned());
            return Ok(trace);
        }
        if value.kind != listener_kind::TLS {
            trace.kind = Some("L4");
            let listener = self.snapshot.names.listener(value.id).unwrap_or_default();
            trace.outcome = Outcome::Other(format!("listener {listener} forwards whatever the server name is"));
            return Ok(trace);
        }
        trace.kind = Some("TLS");
        trace.wildcards = (0..32).filter(|bit| value.wildcards & 1 << bit != 0).collect();
        self.others(&mut trace)?;
        if let Some(reason) = refused(&trace.name) {
            trace.outcome = Outcome::Refused(reason.name());
            return Ok(trace);
        }
        let found = self.candidates(&value, &mut trace)?;
        match found {
            Some(found) => self.follow(&found, &mut trace)?,
            None => trace.outcome = Outcome::Refused(Reason::UnrecognizedName.name()),
        }
        Ok(trace)
    }

    /// The entry that wins, and why the others do not.
    fn candidates(&self, listener: &Listener, trace: &mut Trace) -> io::Result<Option<SniName>> {
        let mut winner = None;
        for (wildcard, name) in candidates(&trace.name) {
            let labels = if name.is_empty() { 0 } else { name.split('.').count() as u32 };
            let looked_for = !wildcard || listener.wildcards & server_name::wildcard_bit(labels) != 0;
            let key = SniKey::new(self.key.address, self.key.port, wildcard, name.as_bytes());
            let entry = if looked_for { self.snapshot.contents.name(&key)? } else { None };
            let verdict = match (&entry, &winner) {
                _ if !looked_for => "not looked for: the port has no wildcard of so many labels",
                (None, _) => "there is none",
                (Some(_), None) => "matches",
                (Some(_), Some(_)) => "matches too, but is less specific",
            };
            let of_entry = entry.as_ref().map(|name| self.entry(&key, name));
            trace.candidates.push(Candidate { name: told(wildcard, name), verdict, entry: of_entry });
            winner = winner.or(entry);
        }
        Ok(winner)
    }

    fn entry(&self, key: &SniKey, name: &SniName) -> Entry {
        Entry {
            listener: self.snapshot.names.listener(name.listener),
            route: self.routes.get(key).cloned(),
            mode: mode(name.mode),
            backend_set: name.backend_set,
            hits: name.hits,
        }
    }

    fn others(&self, trace: &mut Trace) -> io::Result<()> {
        let asked: Vec<String> =
            candidates(&trace.name).into_iter().map(|(wildcard, name)| told(wildcard, name)).collect();
        let mut others: Vec<(String, u32)> = Vec::new();
        let mut listeners: Vec<u32> = Vec::new();
        self.snapshot.contents.names(|key, name| {
            if (key.address, key.port) != (self.key.address, self.key.port) {
                return;
            }
            listeners.push(name.listener);
            let text = name_text(name);
            if !asked.contains(&text) {
                others.push((text, name.listener));
            }
        })?;
        listeners.sort_unstable();
        listeners.dedup();
        trace.listeners = listeners.into_iter().filter_map(|id| self.snapshot.names.listener(id)).collect();
        trace.listeners.sort_unstable();
        // Names that are nearly the same first.
        let likeness = |text: &str| common_end(text.trim_start_matches("*."), &trace.name);
        others.sort_unstable_by(|(a, _), (b, _)| likeness(b).cmp(&likeness(a)).then_with(|| a.cmp(b)));
        trace.others_left_out = others.len().saturating_sub(OTHERS);
        let other = |(text, listener): (String, u32)| {
            let why = why_not(&text, &trace.name);
            Other { name: text, listener: self.snapshot.names.listener(listener), why }
        };
        trace.others = others.into_iter().take(OTHERS).map(other).collect();
        Ok(())
    }

    fn follow(&self, name: &SniName, trace: &mut Trace) -> io::Result<()> {
        if name.mode == sni_mode::HTTPS {
            trace.outcome = self.agent()?;
            return Ok(());
        }
        if name.backend_set == 0 {
            trace.outcome = Outcome::Refused(Reason::UnrecognizedName.name());
            return Ok(());
        }
        let set = self.snapshot.contents.set(name.backend_set)?;
        let slots = self.snapshot.contents.slots(set)?;
        let (table, nested) = slots.split_at(usize::from(set.length));
        let set_of_name = Set { id: name.backend_set, members: members(self.snapshot, table, nested) };
        if name.mode == sni_mode::TERMINATE {
            trace.outcome = self.agent()?;
            trace.set = Some(set_of_name);
            return Ok(());
        }
        let picked = self.pick(set, &slots, trace);
        trace.outcome = match picked {
            Some(slot::INVALID) => Outcome::Refused(Reason::InvalidBackend.name()),
            Some(0 | slot::FIRST_SPECIAL..) => Outcome::Refused(Reason::NoBackend.name()),
            Some(id) => Outcome::Passthrough(backend_name(self.snapshot, id)),
            None => Outcome::Passthrough(format!("set {}", name.backend_set)),
        };
        trace.set = Some(set_of_name);
        Ok(())
    }

    fn agent(&self) -> io::Result<Outcome> {
        let id = if self.key.address.is_v4() { agent_backend::V4 } else { agent_backend::V6 };
        let mut agent = None;
        self.snapshot.contents.backends(|backend, value| {
            if backend == id {
                agent = Some(socket(value.address, value.port));
            }
        })?;
        Ok(match agent {
            Some(agent) => Outcome::Terminate(format!("the agent at {agent}")),
            None => Outcome::Refused(Reason::NoBackend.name()),
        })
    }

    /// As the programs do it; `None`: that takes the client's port.
    fn pick(&self, set: BackendSet, slots: &[u32], trace: &mut Trace) -> Option<u32> {
        let (from, port) = self.question.from.zip(self.question.from_port)?;
        let client = FlowKey {
            source: address(from),
            destination: self.key.address,
            source_port: port,
            destination_port: self.key.port,
            protocol: protocol::TCP,
            _pad: [0; 3],
        };
        let bits = hash::flow(&client);
        let slot = hash::reduce(bits as u32, u32::from(set.length));
        let mut id = *slots.get(slot as usize)?;
        let mut nested_slot = None;
        if id == slot::NESTED {
            let nested = hash::reduce((bits >> 32) as u32, u32::from(set.nested));
            id = *slots.get(usize::from(set.length) + nested as usize)?;
            nested_slot = Some(nested);
        }
        let name = match id {
            slot::INVALID => "invalid backendRef".to_owned(),
            0 | slot::FIRST_SPECIAL.. => "no ready endpoint".to_owned(),
            id => backend_name(self.snapshot, id),
        };
        let backend = if id < slot::FIRST_SPECIAL { id } else { 0 };
        let hash = format!("{bits:016x}");
        trace.pick = Some(Pick { hash, slot, slots: set.length, nested_slot, backend, name });
        Some(id)
    }
}

/// Why no listener is asked for this name.
fn refused(name: &str) -> Option<Reason> {
    let good = name.is_empty() || server_name::is_name(name.as_bytes());
    (!good).then_some(Reason::MalformedHello)
}

/// What SNI is asked for, the most specific first: whether it is a wildcard, and what of it is hashed.
fn candidates(name: &str) -> Vec<(bool, &str)> {
    if name.is_empty() {
        return vec![(true, "")];
    }
    let dots = name.match_indices('.').map(|(dot, _)| (true, &name[dot + 1..]));
    std::iter::once((false, name)).chain(dots).chain([(true, "")]).collect()
}

/// A name for people.
fn told(wildcard: bool, name: &str) -> String {
    match (wildcard, name) {
        (true, "") => "*".to_owned(),
        (true, suffix) => format!("*.{suffix}"),
        (false, name) => name.to_owned(),
    }
}

/// Why a name in SNI, which is none of the candidates, does not take `name`.
fn why_not(other: &str, name: &str) -> String {
    match other.strip_prefix("*.") {
        _ if name.is_empty() => "the client names no server".to_owned(),
        None => "another name".to_owned(),
        Some(suffix) if suffix == name => "the asterisk stands for one label or more".to_owned(),
        Some(suffix) => format!("the name does not end in .{suffix}"),
    }
}

/// How many bytes at the end are the same.
fn common_end(a: &str, b: &str) -> usize {
    a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_name_is_asked_for_first() {
        let expected = [(false, "a.b.example"), (true, "b.example"), (true, "example"), (true, "")];
        assert_eq!(candidates("a.b.example"), expected);
        assert_eq!(candidates(""), [(true, "")]);
    }

    #[test]
    fn names_that_can_be_nobodys_are_refused() {
        let long = "a.".repeat(127) + "b";
        for name in ["a.example.", ".example", "a..b", "a b", "*.example", "ä.example", &long] {
            assert_eq!(refused(name), Some(Reason::MalformedHello), "{name}");
        }
        for name in ["", "a.example", "x_1-y.example", "198.18.0.1"] {
            assert_eq!(refused(name), None, "{name}");
        }
    }

    #[test]
    fn why_a_name_does_not_match_is_said() {
        assert_eq!(why_not("b.example", "a.example"), "another name");
        assert_eq!(why_not("*.a.example", "a.example"), "the asterisk stands for one label or more");
        assert_eq!(why_not("*.b.example", "a.example"), "the name does not end in .b.example");
        assert_eq!(why_not("b.example", ""), "the client names no server");
    }
}
