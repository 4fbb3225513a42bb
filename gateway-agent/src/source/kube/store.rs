//! What the API server said of the objects, as far as it is of use: what is in force, and what of it is news.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::kept::{Kept, Line};
use super::reached::Progress;
use super::references::references;
use super::refused::{is_refused, with_last_good};
use crate::addresses::Reached;
use crate::apply::status::{Digest, digest};
use crate::index::{Change, GATEWAY_GROUP, Kind, Object, ObjectId, Origin};
use crate::source::files::Batch;
use crate::source::read::Reader;
use crate::source::yaml::{Node, Value};
use crate::source::{Problem, Severity, Strings, kinds, manifest};

/// Their objects decide what is watched one by one; in the order in which [`references`] wants them.
const REFERRING: [Kind; 4] = [Kind::GatewayClass, Kind::Gateway, Kind::ListenerSet, Kind::BackendTLSPolicy];

#[derive(Default)]
pub struct Store {
    strings: Strings,
    known: BTreeMap<ObjectId, Known>,
    problems: BTreeMap<ObjectId, Box<[Problem]>>,
    /// That nobody has heard of yet.
    changes: Vec<Change>,
    problems_changed: bool,
    references_changed: bool,
    /// When the first news came.
    heard: Option<Instant>,
    /// For an agent that starts while the API server is away.
    kept: Option<Kept>,
    pub progress: Progress,
}

#[derive(Default)]
struct Known {
    /// `None`: it never was right.
    object: Option<Object>,
    /// The list that it was in last; 0: it is known from an earlier agent.
    round: u32,
    status: Seen,
    kept: Option<Line>,
}

/// What is kept of the status that an object has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub digest: Digest,
    /// It has none at all; then the version of the object.
    pub blank: Option<Box<str>>,
}

impl Store {
    /// With what an earlier agent has kept of this API server in a file, which is kept up from now on.
    pub fn keep(&mut self, path: &Path, server: &str) -> io::Result<()> {
        let kept = Kept::open(path, server, |kind, version, node, line| {
            let id = manifest::identify(kind, node);
            self.set(kind, version, node, 0);
            let known = self.known.get_mut(&id)?;
            // It is the API server's to say what its status is.
            known.status = Seen::default();
            known.object.as_ref()?;
            known.kept = Some(line);
            Some(id)
        })?;
        // Also if only Secrets were kept.
        self.references_changed = true;
        self.kept = Some(kept);
        Ok(())
    }

    /// The file is kept up no longer.
    pub fn leave_kept(&mut self) {
        self.kept = None;
    }

    /// An object as it is now; says which one it is if what is ours of its status is another than before.
    pub fn set(&mut self, kind: Kind, version: &str, node: &Node, round: u32) -> Option<ObjectId> {
        let id = manifest::identify(kind, node);
        let mut reader = Reader::by_api(id.clone(), &mut self.strings);
        let object = kinds::object(&mut reader, kind, version, node);
        let mut problems = reader.into_problems();
        // Its strings are kept once.
        let id = object.as_ref().map_or(id, Object::id);
        let is_new = !self.known.contains_key(&id);
        let known = self.known.entry(id.clone()).or_default();
        let object = object.map(|object| with_last_good(object, known.object.as_ref()));
        known.round = round;
        let before = known.status.digest;
        if has_status(kind) {
            known.status = seen(kind, node);
        }
        let touched = has_status(kind) && (is_new || known.status.digest != before);
        // What was kept the API server has not said.
        if round > 0 {
            let now = object.as_ref().filter(|object| known.object.as_ref() != Some(*object));
            self.progress.seen(&id, node, known.object.as_ref(), now);
        }
        match object {
            // Often only its status has changed.
            Some(object) if known.object.as_ref() == Some(&object) => {}
            Some(object) => {
                self.references_changed |= REFERRING.contains(&kind);
                known.object = Some(object.clone());
                if let Some(kept) = self.kept.as_mut().filter(|_| !is_refused(&object)) {
                    match kept.put(kind, version, node, known.kept.take()) {
                        Ok(line) => known.kept = Some(line),
                        Err(error) => self.cannot_keep(&error),
                    }
                }
                self.push(Change::Set(object));
            }
            None if known.object.is_some() => {
                let origin = Origin { file: self.strings.intern(""), line: 0 };
                let message = "is wrong as it is now; its last good version stays in force";
                problems.push(Problem::of_object(Severity::Warning, id.clone(), &origin, "", message));
            }
            None => {}
        }
        self.complain(id.clone(), problems);
        touched.then_some(id)
    }

    pub fn seen(&self, id: &ObjectId) -> Option<&Seen> {
        self.known.get(id).map(|known| &known.status)
    }

    /// The status was written.
    pub fn wrote(&mut self, id: &ObjectId, digest: Digest) {
        if let Some(known) = self.known.get_mut(id) {
            known.status = Seen { digest, blank: None };
        }
    }

    /// Objects with something of ours in their status.
    pub fn with_status(&self) -> Vec<ObjectId> {
        let ours = |(id, known): (&ObjectId, &Known)| (known.status.digest.whole != 0).then(|| id.clone());
        self.known.iter().filter_map(ours).collect()
    }

    pub fn gone(&mut self, id: ObjectId) {
        let Some(known) = self.known.remove(&id) else { return };
        self.progress.gone(&id);
        self.complain(id.clone(), Vec::new());
        if let (Some(kept), Some(line)) = (&mut self.kept, known.kept)
            && let Err(error) = kept.blank(line)
        {
            self.cannot_keep(&error);
        }
        if known.object.is_some() {
            self.references_changed |= REFERRING.contains(&id.kind);
            self.push(Change::Remove(id));
        }
    }

    /// What no list has had since `round` is gone: of a kind, or the one object.
    pub fn forget(&mut self, kind: Kind, object: Option<&ObjectId>, round: u32) {
        let is_old = |(id, known): (&ObjectId, &Known)| (known.round != round).then(|| id.clone());
        let old: Vec<ObjectId> = match object {
            Some(id) => self.known.get_key_value(id).and_then(is_old).into_iter().collect(),
            None => self.of(kind).filter_map(is_old).collect(),
        };
        old.into_iter().for_each(|id| self.gone(id));
    }

    /// Something is to be said, if only that there is no news.
    pub fn speak(&mut self) {
        self.problems_changed = true;
    }

    /// What is news, if anything is.
    pub fn take(&mut self) -> Option<Batch> {
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.is_wasteful())
            && let Err(error) = kept.rewrite(self.known.values_mut().filter_map(|known| known.kept.as_mut()))
        {
            self.cannot_keep(&error);
        }
        if self.changes.is_empty() && !self.problems_changed {
            return None;
        }
        let heard = self.heard.take().unwrap_or_else(Instant::now);
        self.problems_changed = false;
        self.progress.took();
        let problems: Arc<[Problem]> = self.problems.values().flat_map(|problems| problems.iter().cloned()).collect();
        Some(Batch { heard, changes: std::mem::take(&mut self.changes), problems })
    }

    pub fn push(&mut self, change: Change) {
        self.heard.get_or_insert_with(Instant::now);
        self.changes.push(change);
    }

    /// Up to where everything is applied that the API server has said.
    pub fn applied(&self) -> Option<Reached> {
        self.progress.place(!self.changes.is_empty())
    }

    /// Whether the status of a Gateway shows these addresses, so that other agents know of them.
    pub fn shows(&self, gateway: &ObjectId, addresses: &[IpAddr]) -> bool {
        let known = self.known.get(gateway).and_then(|known| known.object.as_ref());
        let had = known.map_or(&[][..], |object| match object {
            Object::Gateway(gateway) => &gateway.had,
            _ => &[],
        });
        addresses.iter().all(|address| had.contains(address))
    }

    fn cannot_keep(&mut self, error: &io::Error) {
        let Some(kept) = self.kept.take() else { return };
        tracing::warn!(path = %kept.path().display(), %error, "cannot keep the objects of the cluster: an agent that starts while the \
                       API server is away will not serve HTTP");
        kept.give_up();
    }

    /// What is to be watched one by one, of whose kinds no others stay; `None`: the same as when this was asked last.
    pub fn referenced(&mut self) -> Option<BTreeSet<ObjectId>> {
        if !std::mem::take(&mut self.references_changed) {
            return None;
        }
        let objects =
            REFERRING.into_iter().flat_map(|kind| self.of(kind)).filter_map(|(_, known)| known.object.as_ref());
        let wanted = references(objects);
        let there = [Kind::Secret, Kind::ConfigMap, Kind::SluiceConfig].into_iter().flat_map(|kind| self.of(kind));
        let stray: Vec<ObjectId> = there.map(|(id, _)| id).filter(|id| !wanted.contains(id)).cloned().collect();
        stray.into_iter().for_each(|id| self.gone(id));
        Some(wanted)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (&ObjectId, &Known)> {
        let name = crate::index::Name { namespace: "".into(), name: "".into() };
        self.known.range(ObjectId { kind, name }..).take_while(move |(id, _)| id.kind == kind)
    }

    fn complain(&mut self, id: ObjectId, problems: Vec<Problem>) {
        if self.problems.get(&id).map_or(&[][..], |known| known) == problems {
            return;
        }
        self.problems_changed = true;
        match problems.is_empty() {
            true => drop(self.problems.remove(&id)),
            false => drop(self.problems.insert(id, problems.into())),
        }
    }
}

fn has_status(kind: Kind) -> bool {
    kind.group() == GATEWAY_GROUP && kind != Kind::ReferenceGrant
}

fn seen(kind: Kind, node: &Node) -> Seen {
    let status = node.get("status").filter(|status| !status.is_null());
    let blank = match status.map(|status| &status.value) {
        None => true,
        Some(Value::Mapping(entries)) => {
            entries.iter().all(|e| matches!(&e.value.value, Value::Sequence(items) if items.is_empty()))
        }
        Some(_) => false,
    };
    let version = || node.text_at(&["metadata", "resourceVersion"]).map(Box::from);
    Seen { digest: digest(kind, status), blank: if blank { version() } else { None } }
}
