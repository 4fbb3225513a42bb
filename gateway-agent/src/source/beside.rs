//! Files beside manifests that stand for data of Secrets and ConfigMaps: PEM, as the programs that renew certificates write it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::directory::{hash, read};

/// What a Secret may hold in Kubernetes, and so more than enough.
const MOST: u64 = 1 << 20;

/// The directory of a manifest, while that is read.
pub struct Beside {
    directory: PathBuf,
    seen: RefCell<Seen>,
}

/// The files that were asked for, and the hashes of their content; `None`: that is not known.
pub type Seen = BTreeMap<Box<str>, Option<u64>>;

impl Beside {
    pub fn new(directory: &Path) -> Beside {
        Beside { directory: directory.to_owned(), seen: RefCell::default() }
    }

    /// The content of a file of this name, or what is wrong. Symbolic links are followed, as those of manifests are.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let content = content(&self.directory, name);
        self.seen.borrow_mut().insert(name.into(), content.as_deref().ok().map(hash));
        content
    }

    pub fn seen(self) -> Seen {
        self.seen.into_inner()
    }
}

/// Whether files are what they were.
pub fn is_unchanged(directory: &Path, seen: &Seen) -> bool {
    seen.iter().all(|(name, hashed)| content(directory, name).as_deref().ok().map(hash) == *hashed)
}

/// Whether it is the name of a file of the directory itself, and one that is no manifest and that editors and kubelets leave alone.
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']) && !super::directory::is_manifest(name)
}

fn content(directory: &Path, name: &str) -> Result<Vec<u8>, String> {
    let path = directory.join(name);
    let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    if length > MOST {
        return Err(format!("{name} has {length} bytes, more than the {MOST} of a Secret"));
    }
    match read(&path) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(format!("there is no file {name} beside this one; put it there, or correct the name")),
        Err(error) => Err(format!("{name} cannot be read: {error}")),
    }
}
