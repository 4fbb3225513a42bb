//! `--session-key`: what sessions of clients with endpoints are signed with.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::proxy::http::session::{Keys, Secret};

#[derive(clap::Args)]
#[command(next_help_heading = "Sessions")]
pub struct SessionKeys {
    /// Sign sessions (`sessionPersistence`) with the content of this file, at least 32 random bytes: they outlive a restart, and hold at every
    /// agent that has the same [default: a key of this process alone].
    #[arg(long, value_name = "FILE")]
    session_key: Option<PathBuf>,
    /// Take sessions that are signed with this one, too: the former key, or the one to come. May be repeated.
    #[arg(long, value_name = "FILE", requires = "session_key")]
    accept_session_key: Vec<PathBuf>,
}

impl SessionKeys {
    /// `None`: none was given.
    pub fn read(&self) -> anyhow::Result<Option<Keys>> {
        let Some(file) = &self.session_key else { return Ok(None) };
        let signs = secret("--session-key", file)?;
        let accepted = self.accept_session_key.iter().map(|file| secret("--accept-session-key", file));
        Ok(Some(Keys::new(&signs, &accepted.collect::<anyhow::Result<Vec<_>>>()?)))
    }
}

fn secret(option: &str, path: &Path) -> anyhow::Result<Secret> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        // A byte more tells that it is too long.
        File::open(path)?.take(Secret::MOST as u64 + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    let path = path.display();
    let content = read().with_context(|| format!("cannot read {option} {path}"))?;
    Secret::read(&content).with_context(|| {
        format!("{option} {path} is no session key; make one with: head -c 48 /dev/urandom | base64 > FILE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &Path, accepted: &[&Path]) -> anyhow::Result<Option<Keys>> {
        let accept_session_key = accepted.iter().map(|path| path.to_path_buf()).collect();
        SessionKeys { session_key: Some(key.to_owned()), accept_session_key }.read()
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_with_its_name_and_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("good"), [b"0123456789abcdef".as_slice(); 3].concat()).unwrap();
        std::fs::write(path("short"), "secret\n").unwrap();
        std::fs::write(path("zeros"), [0; 48]).unwrap();
        assert!(keys(&path("good"), &[&path("good")]).unwrap().is_some());
        for (key, accepted, wanted) in [
            ("gone", None, "cannot read --session-key"),
            (".", None, "cannot read --session-key"),
            ("short", None, "it has 6 bytes"),
            ("zeros", None, "all of its bytes are the same"),
            ("good", Some("short"), "--accept-session-key"),
        ] {
            let accepted: Vec<PathBuf> = accepted.into_iter().map(path).collect();
            let accepted: Vec<&Path> = accepted.iter().map(PathBuf::as_path).collect();
            let error = format!("{:#}", keys(&path(key), &accepted).unwrap_err());
            assert!(error.contains(wanted) && error.contains(&*directory.path().to_string_lossy()), "{key}: {error}");
        }
    }
}
