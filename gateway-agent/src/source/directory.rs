//! What the files of a directory say together: which objects are in force, and what is wrong.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beside::{Beside, Seen, is_unchanged};
use super::manifest::{self, Manifest};
use super::strings::Strings;
use super::{Problem, Severity};
use crate::index::{Change, Object, ObjectId, Origin};

/// Which files count; the others are not looked at. Names that start with a dot are editors' and kubelets' business.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

pub struct Directory {
    path: PathBuf,
    /// By file name: the first wins where two say the same object.
    files: BTreeMap<Arc<str>, File>,
    /// Which files have an object, sorted; nearly always one.
    owners: BTreeMap<ObjectId, Vec<Arc<str>>>,
    /// Objects that more than one file has.
    shared: BTreeSet<ObjectId>,
    strings: Strings,
}

/// What a file said when it last could be read.
#[derive(Default)]
struct File {
    /// Of the content; a file written again as it was is no change.
    hash: Option<u64>,
    /// Sorted by kind and name, each once.
    objects: Box<[Object]>,
    foreign: Vec<(Box<str>, Origin)>,
    /// The files beside it that its objects have data from.
    beside: Seen,
    problems: Vec<Problem>,
}

impl Directory {
    pub fn new(path: PathBuf) -> Directory {
        Directory {
            path,
            files: BTreeMap::new(),
            owners: BTreeMap::new(),
            shared: BTreeSet::new(),
            strings: Strings::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at every file there is and every file there was.
    pub fn read_all(&mut self) -> io::Result<Vec<Change>> {
        let mut names: BTreeSet<Arc<str>> = self.files.keys().cloned().collect();
        for entry in std::fs::read_dir(&self.path)? {
            if let Some(name) = entry?.file_name().to_str().filter(|name| is_manifest(name)) {
                names.insert(name.into());
            }
        }
        Ok(names.iter().flat_map(|name| self.read_file(name)).collect())
    }

    /// Reads a file anew, and says what that changes. Costs what this file costs, whatever else there is.
    pub fn read_file(&mut self, name: &str) -> Vec<Change> {
        if !is_manifest(name) {
            return self.read_beside(name);
        }
        self.read_manifest(name, false)
    }

    /// A file that manifests take data from has changed.
    fn read_beside(&mut self, name: &str) -> Vec<Change> {
        let takers = self.files.iter().filter(|(_, file)| file.beside.contains_key(name));
        let takers: Vec<Arc<str>> = takers.map(|(taker, _)| Arc::clone(taker)).collect();
        takers.iter().flat_map(|taker| self.read_manifest(taker, true)).collect()
    }

    /// `as_it_was`: only if it is what it was. If it is not, somebody writes it right now, and will have been heard when it is whole.
    fn read_manifest(&mut self, name: &str, as_it_was: bool) -> Vec<Change> {
        let path = self.path.join(name);
        let shown: Arc<str> = path.to_string_lossy().into();
        let old = self.files.get(name);
        let new = match read(&path) {
            Err(_) | Ok(None) if as_it_was => return Vec::new(),
            Ok(None) => None,
            Ok(Some(bytes)) => {
                let hash = hash(&bytes);
                let is_same = old.is_some_and(|file| file.hash == Some(hash));
                let is_nothing_new = is_same && old.is_some_and(|old| is_unchanged(&self.path, &old.beside));
                if is_nothing_new || (as_it_was && !is_same) {
                    return Vec::new();
                }
                let beside = Beside::new(&self.path);
                let mut file = understand(&shown, bytes, hash, old, &mut self.strings, &beside);
                // Where it makes no sense there is what was known before.
                file.beside.extend(beside.seen());
                Some(file)
            }
            Err(error) => {
                let message = format!("cannot be read: {error}");
                Some(keep(old, None, Problem::of_file(&shown, Severity::Error, message)))
            }
        };
        self.replace(name.into(), new)
    }

    /// The file is there, but its content is not known.
    pub fn is_unreadable(&self, name: &str) -> bool {
        self.files.get(name).is_some_and(|file| file.hash.is_none())
            || self.files.values().any(|file| file.beside.get(name) == Some(&None))
    }

    /// A manifest, or a file that one takes data from.
    pub fn is_of_interest(&self, name: &str) -> bool {
        is_manifest(name) || self.files.values().any(|file| file.beside.contains_key(name))
    }

    /// Everything that is wrong now, sorted by place.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        problems.extend(self.shared.iter().flat_map(|id| self.shared_problems(id)));
        problems.extend(self.foreign_problems());
        problems.sort_unstable();
        problems
    }

    fn replace(&mut self, name: Arc<str>, new: Option<File>) -> Vec<Change> {
        let had = self.files.get(&name).map_or(&[][..], |file| &file.objects);
        let has = new.as_ref().map_or(&[][..], |file| &file.objects);
        let touched: BTreeSet<ObjectId> = had.iter().chain(has).map(Object::id).collect();
        let before: Vec<Option<Object>> = touched.iter().map(|id| self.in_force(id).cloned()).collect();
        for id in &touched {
            let owned = new.as_ref().is_some_and(|file| file.object(id).is_some());
            self.set_owner(id, &name, owned);
        }
        match new {
            Some(file) => drop(self.files.insert(name, file)),
            None => drop(self.files.remove(&name)),
        }
        let change = |(id, before): (ObjectId, Option<Object>)| match self.in_force(&id) {
            now if now == before.as_ref() => None,
            Some(object) => Some(Change::Set(object.clone())),
            None => Some(Change::Remove(id)),
        };
        touched.into_iter().zip(before).filter_map(change).collect()
    }

    fn set_owner(&mut self, id: &ObjectId, file: &Arc<str>, owned: bool) {
        let owners = self.owners.entry(id.clone()).or_default();
        match (owners.binary_search(file), owned) {
            (Err(place), true) => {
                owners.reserve_exact(1);
                owners.insert(place, file.clone());
            }
            (Ok(place), false) => drop(owners.remove(place)),
            (Ok(_), true) | (Err(_), false) => {}
        }
        match owners.len() {
            0 => drop(self.owners.remove(id)),
            1 => drop(self.shared.remove(id)),
            _ => drop(self.shared.insert(id.clone())),
        }
    }

    fn in_force(&self, id: &ObjectId) -> Option<&Object> {
        let first = self.owners.get(id)?.first()?;
        self.files.get(first)?.object(id)
    }

    fn shared_problems(&self, id: &ObjectId) -> impl Iterator<Item = Problem> {
        let objects = self.owners.get(id).into_iter().flatten().filter_map(|name| self.files.get(name)?.object(id));
        let origins: Vec<Origin> = objects.map(|object| object.meta().origin.clone()).collect();
        let first = origins.first().cloned();
        let id = id.clone();
        origins.into_iter().skip(1).filter_map(move |origin| {
            let message =
                format!("is also in {}, which wins (the first by path); remove one of the two", first.as_ref()?);
            Some(Problem::of_object(Severity::Error, id.clone(), &origin, "", message))
        })
    }

    /// One note a kind, at the first object of it.
    fn foreign_problems(&self) -> impl Iterator<Item = Problem> {
        let mut kinds: BTreeMap<&str, (usize, &Origin)> = BTreeMap::new();
        for (kind, origin) in self.files.values().flat_map(|file| &file.foreign) {
            let (count, first) = kinds.entry(kind).or_insert((0, origin));
            *count += 1;
            *first = (*first).min(origin);
        }
        kinds.into_iter().map(|(kind, (count, origin))| {
            let objects = if count == 1 { "1 object".to_owned() } else { format!("{count} objects") };
            let message = format!("{kind} is no kind that Sluice reads; {objects} of it ignored");
            let mut problem = Problem::of_file(&origin.file, Severity::Note, message);
            problem.origin = origin.clone();
            problem
        })
    }
}

impl File {
    fn object(&self, id: &ObjectId) -> Option<&Object> {
        let place = self.objects.binary_search_by(|o| (o.kind(), &o.meta().name).cmp(&(id.kind, &id.name))).ok()?;
        Some(&self.objects[place])
    }
}

pub fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    !name.starts_with('.') && extension.is_some_and(|e| EXTENSIONS.contains(&e))
}

/// `None`: there is no such file (any more), or it is something else than a file.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let is_file = match std::fs::metadata(path) {
        Ok(metadata) => metadata.is_file(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if !is_file {
        return Ok(None);
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Takes in what a file says now. Where it makes no sense, what it said before stays.
fn understand(
    shown: &Arc<str>,
    bytes: Vec<u8>,
    hash: u64,
    old: Option<&File>,
    strings: &mut Strings,
    beside: &Beside,
) -> File {
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..good].iter().filter(|b| **b == b'\n').count();
            let mut problem = Problem::of_file(shown, Severity::Error, "is no UTF-8 text");
            problem.origin.line = line as u32;
            return keep(old, Some(hash), problem);
        }
    };
    let Manifest { objects, rejected, unsound, foreign, mut problems } =
        match manifest::read_beside(shown, &text, strings, Some(beside)) {
            Ok(manifest) => manifest,
            Err(problem) => return keep(old, Some(hash), problem),
        };
    let mut by_id: BTreeMap<ObjectId, Object> = BTreeMap::new();
    for object in objects {
        match by_id.entry(object.id()) {
            Entry::Vacant(place) => drop(place.insert(object)),
            Entry::Occupied(first) => {
                let line = first.get().meta().origin.line;
                let message = format!("is also in line {line} of this file, which wins; remove one");
                problems.push(Problem::of_object(Severity::Error, object.id(), &object.meta().origin, "", message));
            }
        }
    }
    let mut keep_old = |id: &ObjectId, object: &Object, message: &str| {
        let start = problems.iter().find(|p| p.object.as_ref() == Some(id)).map_or(1, |p| p.start);
        let origin = Origin { file: shown.clone(), line: start };
        problems.push(Problem::of_object(Severity::Warning, id.clone(), &origin, "", message));
        object.clone()
    };
    for id in rejected {
        let Some(object) = old.and_then(|old| old.object(&id)) else { continue };
        if let Entry::Vacant(place) = by_id.entry(id) {
            let message = "is wrong as it is written now; its last good version stays in force";
            let object = keep_old(place.key(), object, message);
            place.insert(object);
        }
    }
    for id in unsound {
        let Some(object) = old.and_then(|old| old.object(&id)).filter(|object| is_sound(object)) else { continue };
        let message = "has files that are wrong as they are now; its last good version stays in force";
        let object = keep_old(&id, object, message);
        by_id.insert(id, object);
    }
    File { hash: Some(hash), objects: by_id.into_values().collect(), foreign, problems, beside: Seen::new() }
}

/// What it holds can be used.
fn is_sound(object: &Object) -> bool {
    match object {
        Object::Secret(secret) => secret.certificate.is_ok(),
        Object::ConfigMap(map) => map.authorities.is_ok(),
        _ => true,
    }
}

/// The file as it was, with a problem more.
fn keep(old: Option<&File>, hash: Option<u64>, mut problem: Problem) -> File {
    let objects = old.map(|file| file.objects.clone()).unwrap_or_default();
    if !objects.is_empty() {
        problem.message = format!("{}; what this file said before stays in force", problem.message).into();
    }
    let foreign = old.map(|file| file.foreign.clone()).unwrap_or_default();
    let beside = old.map(|file| file.beside.clone()).unwrap_or_default();
    File { hash, objects, foreign, problems: vec![problem], beside }
}
