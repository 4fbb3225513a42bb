//! The directory on the BPF file system: made, locked, emptied.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::mount::MountFlags;

/// Of linux/magic.h.
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;
/// Where BPF file systems are mounted by custom.
const CUSTOMARY: &str = "/sys/fs/bpf";

#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(
        "{holder} holds {directory}; stop it first, or give this agent another --pin-dir (two agents cannot share maps)"
    )]
    Held { directory: String, holder: String },
    #[error(
        "cannot mount a BPF file system on {directory}: {source}; run as root, or mount it beforehand with `mount -t bpf bpf {directory}`"
    )]
    Mount { directory: String, source: io::Error },
    #[error("{directory} is not empty and not on a BPF file system; name another --pin-dir")]
    NotEmpty { directory: String },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: String, source: io::Error },
}

impl PinError {
    /// For a log: whose end is waited for.
    pub fn waited_for(&self) -> String {
        match self {
            PinError::Held { directory, holder } => format!("waiting until {holder} lets go of {directory}"),
            other => other.to_string(),
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.display().to_string();
    move |source| PinError::Io { action, path, source }
}

/// The pin directory, held by this process as long as this lives, or until it lets go.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    lock: Option<OwnedFd>,
}

/// As long as it lives, who holds the directory knows that another agent is to take its place, and that it has not yet.
pub struct Successor {
    _lock: OwnedFd,
}

impl Pins {
    /// Makes the directory, mounting a BPF file system where there is none, and locks it.
    pub fn take(directory: &Path) -> Result<Pins, PinError> {
        mount(directory)?;
        for part in [directory.to_owned(), directory.join(LINKS), directory.join(PROGRAMS)] {
            fs::create_dir_all(&part).map_err(failed("make the directory", &part))?;
        }
        Ok(Pins { directory: directory.to_owned(), lock: Some(lock(directory)?) })
    }

    /// For whoever found it held. `None`: another waits already.
    pub fn succeed(directory: &Path) -> Result<Option<Successor>, PinError> {
        match lock(&directory.join(LINKS)) {
            Ok(lock) => Ok(Some(Successor { _lock: lock })),
            Err(PinError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a [`Successor`].
    pub fn is_awaited(&self) -> bool {
        matches!(lock(&self.directory.join(LINKS)), Err(PinError::Held { .. }))
    }

    /// Whether another process holds it, after this one has let go.
    pub fn is_taken(&self) -> bool {
        matches!(lock(&self.directory), Err(PinError::Held { .. }))
    }

    /// Another agent may have it from now on.
    pub fn let_go(&mut self) {
        self.lock = None;
    }

    /// As [`Pins::take`], if there is anything to take.
    pub fn take_existing(directory: &Path) -> Result<Option<Pins>, PinError> {
        if !directory.is_dir() || !is_bpffs(directory) {
            return Ok(None);
        }
        Ok(Some(Pins { directory: directory.to_owned(), lock: Some(lock(directory)?) }))
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(PROGRAMS).join(name)
    }

    /// Every pinned program.
    pub fn programs(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(self.directory.join(PROGRAMS))?.map(|entry| Ok(entry?.path())).collect()
    }

    /// `target`: an interface, or the inode of a network namespace.
    pub fn link(&self, hook: &str, target: u32) -> PathBuf {
        self.directory.join(LINKS).join(format!("{hook}_{target}"))
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Hook and target of every pinned link.
    pub fn links(&self) -> io::Result<Vec<(String, u32, PathBuf)>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(self.directory.join(LINKS))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if let Some((hook, ifindex)) = name.rsplit_once('_')
                && let Ok(ifindex) = ifindex.parse()
            {
                links.push((hook.to_owned(), ifindex, path));
            }
        }
        Ok(links)
    }

    /// Removes every pin, links first, and the directory.
    pub fn remove_all(self) -> Result<usize, PinError> {
        let mut removed = 0;
        for directory in [self.directory.join(LINKS), self.directory.join(PROGRAMS), self.directory.clone()] {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", &directory)(error)),
            };
            for entry in entries {
                let path = entry.map_err(failed("read", &directory))?.path();
                if !path.is_dir() {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                    removed += 1;
                }
            }
            match fs::remove_dir(&directory) {
                // A BPF file system that is mounted right there.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    let unmounted = rustix::mount::unmount(&directory, rustix::mount::UnmountFlags::DETACH);
                    unmounted.map_err(|e| failed("unmount", &directory)(e.into()))?;
                }
                removed => removed.map_err(failed("remove", &directory))?,
            }
        }
        Ok(removed)
    }
}

const LINKS: &str = "links";
const PROGRAMS: &str = "programs";

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == BPF_FS_MAGIC)
}

/// A directory below /sys/fs/bpf gets the file system there, any other one gets it right on itself.
fn mount(directory: &Path) -> Result<(), PinError> {
    let existing = directory.ancestors().find(|a| a.exists()).unwrap_or(Path::new("/"));
    if is_bpffs(existing) {
        return Ok(());
    }
    let target = if directory.starts_with(CUSTOMARY) { Path::new(CUSTOMARY) } else { directory };
    if target == directory {
        fs::create_dir_all(target).map_err(failed("make the directory", target))?;
        let mut entries = fs::read_dir(target).map_err(failed("read", target))?;
        if entries.next().is_some() {
            return Err(PinError::NotEmpty { directory: target.display().to_string() });
        }
    }
    tracing::info!(directory = %target.display(), "mounting a BPF file system");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", target, "bpf", flags, Some(c"mode=0700"))
        .map_err(|e| PinError::Mount { directory: target.display().to_string(), source: e.into() })
}

fn lock(directory: &Path) -> Result<OwnedFd, PinError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty()).map_err(|e| failed("open", directory)(e.into()))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fd),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = holder(directory).unwrap_or_else(|| "another process".to_owned());
            Err(PinError::Held { directory: directory.display().to_string(), holder })
        }
        Err(error) => Err(failed("lock", directory)(error.into())),
    }
}

/// Who has the lock, from /proc/locks.
fn holder(directory: &Path) -> Option<String> {
    let metadata = fs::metadata(directory).ok()?;
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let pid = holder_in(&fs::read_to_string("/proc/locks").ok()?, major, minor, metadata.ino())?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    Some(format!("process {pid} ({command})"))
}

/// Lines are `1: FLOCK  ADVISORY  WRITE 4711 00:2a:1234 0 EOF` (proc(5)).
fn holder_in(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, _, _, pid, on) = (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
        (kind == "FLOCK" && on == file).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_seen_until_it_has_taken_over() {
        let directory = std::env::temp_dir().join(format!("sluice-pins-{}", std::process::id()));
        fs::create_dir_all(directory.join(LINKS)).unwrap();
        let mut pins = Pins { directory: directory.clone(), lock: Some(lock(&directory).unwrap()) };
        assert!(!pins.is_awaited());
        let successor = Pins::succeed(&directory).unwrap().unwrap();
        assert!(pins.is_awaited() && Pins::succeed(&directory).unwrap().is_none());
        assert!(matches!(lock(&directory), Err(PinError::Held { .. })));
        pins.let_go();
        assert!(!pins.is_taken());
        let _taken = lock(&directory).unwrap();
        assert!(pins.is_awaited() && pins.is_taken());
        drop(successor);
        assert!(!pins.is_awaited());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_holder_is_found_in_proc_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:2a:1234 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 9 00:2a:1234 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 8 00:2a:1234 0 EOF\n";
        assert_eq!(holder_in(locks, 0, 0x2a, 1234), Some(8));
        assert_eq!(holder_in(locks, 0, 0x2a, 1235), None);
    }
}
