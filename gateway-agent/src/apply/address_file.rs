//! What Gateways were given out of the address pool, kept on disk: without an API server nothing else would know after a restart. (To
//! choose by a hash of the name would need no file, but every collision would move addresses when a neighbour comes or goes.)

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::index::Name;

#[derive(Debug, thiserror::Error)]
pub enum AddressFileError {
    #[error("cannot read {path}, where the addresses of Gateways are kept: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} does not say which addresses Gateways have: {source}; correct it, or remove it to have all assigned anew"
    )]
    Broken { path: PathBuf, source: serde_json::Error },
}

/// `namespace/name` → addresses.
type Content = BTreeMap<String, Vec<IpAddr>>;

pub struct AddressFile {
    path: PathBuf,
}

impl AddressFile {
    /// With what was in it; a file that is not there is an empty one.
    pub fn open(path: &Path) -> Result<(AddressFile, BTreeMap<Name, Vec<IpAddr>>), AddressFileError> {
        let file = AddressFile { path: path.to_owned() };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((file, BTreeMap::new())),
            Err(source) => return Err(AddressFileError::Read { path: path.to_owned(), source }),
        };
        let broken = |source| AddressFileError::Broken { path: path.to_owned(), source };
        let content: Content = serde_json::from_slice(&text).map_err(broken)?;
        let name = |text: String| {
            let (namespace, name) = text.split_once('/')?;
            Some(Name { namespace: namespace.into(), name: name.into() })
        };
        let entry = |(text, addresses)| Some((name(text)?, addresses));
        Ok((file, content.into_iter().filter_map(entry).collect()))
    }

    /// Whole or not at all.
    pub fn write(&self, addresses: &BTreeMap<Name, Vec<IpAddr>>) -> io::Result<()> {
        let content: Content = addresses.iter().map(|(name, list)| (name.to_string(), list.clone())).collect();
        let text = serde_json::to_vec_pretty(&content)?;
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let new = self.path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&text)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let path = std::env::temp_dir().join(format!("sluice-addresses-{}.json", std::process::id()));
        let name = Name { namespace: "default".into(), name: "web".into() };
        let addresses = BTreeMap::from([(name, vec!["198.18.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()])]);
        let (file, none) = AddressFile::open(&path).unwrap();
        assert!(none.is_empty());
        file.write(&addresses).unwrap();
        assert_eq!(AddressFile::open(&path).unwrap().1, addresses);
        fs::write(&path, "{\"default/web\": [\"198.18.0.1\", \"web\"]}").unwrap();
        let error = AddressFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("remove it to have all assigned anew"), "{error}");
        fs::remove_file(&path).unwrap();
    }
}
