//! A directory of manifests: read once, or read and watched.
//!
//! Only the files of the directory itself count (no subdirectories), as for `kubectl apply -f DIR`: manifests, and the files that their
//! Secrets and ConfigMaps have data from. A file counts once it is
//! complete: when its writer closes it, or when it is renamed into place. The symbolic links that Kubernetes mounts
//! ConfigMaps with are understood: they change all at once when the link `..data` is replaced.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Problem;
use super::directory::Directory;
use crate::index::{Change, Object};
use crate::source::Severity;

/// Changes that come this close together are one; more that come while these are applied are the next one.
const SETTLE: Duration = Duration::from_micros(300);
/// How long a file may be away and come back as if it had only changed: its objects' connections live on.
const GRACE: Duration = Duration::from_millis(100);
/// How often a directory that has gone is looked for.
const RETRY: Duration = Duration::from_millis(500);

/// Everything a directory says.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Sorted by kind and name.
    pub objects: Vec<Object>,
    pub problems: Vec<Problem>,
}

/// What changed, and what is wrong now (all of it, also what was wrong before).
#[derive(Debug)]
pub struct Batch {
    /// When the first of it was heard of.
    pub heard: std::time::Instant,
    pub changes: Vec<Change>,
    pub problems: Arc<[Problem]>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {cause}{advice}")]
pub struct SourceError {
    doing: &'static str,
    path: PathBuf,
    cause: io::Error,
    advice: &'static str,
}

/// Reads a directory once.
pub fn load_dir(dir: &Path) -> Result<Loaded, SourceError> {
    load(&mut Directory::new(dir.to_owned()))
}

/// Watches a directory until the receiver is dropped.
pub struct Watcher;

impl Watcher {
    /// Reads the directory and goes on watching it in a task of its own. Nothing falls between the two.
    pub fn start(dir: PathBuf) -> Result<(Loaded, mpsc::Receiver<Batch>), SourceError> {
        let mut directory = Directory::new(dir);
        let watch = watch(directory.path())?;
        let loaded = load(&mut directory)?;
        let (sender, receiver) = mpsc::channel(16);
        let said = loaded.problems.as_slice().into();
        let follower = Follower {
            directory,
            watch,
            news: News::default(),
            said,
            sender: sender.clone(),
            heard: std::time::Instant::now(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = follower.run() => {}
                () = sender.closed() => {}
            }
        });
        Ok((loaded, receiver))
    }
}

fn load(directory: &mut Directory) -> Result<Loaded, SourceError> {
    let changes = directory.read_all().map_err(|cause| failed("read the directory", directory.path(), cause))?;
    let mut objects: Vec<Object> = changes
        .into_iter()
        .filter_map(|change| match change {
            Change::Set(object) => Some(object),
            Change::Remove(_) | Change::Bundles(_) => None,
        })
        .collect();
    objects.sort_by_cached_key(Object::id);
    Ok(Loaded { objects, problems: directory.problems() })
}

/// With room for a burst of events; the kernel queues the others.
type Watch = EventStream<Box<[u8]>>;

fn watch(dir: &Path) -> Result<Watch, SourceError> {
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::CREATE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    let watch = Inotify::init().and_then(|inotify| {
        inotify.watches().add(dir, mask)?;
        inotify.into_event_stream(vec![0; 16 * 1024].into())
    });
    watch.map_err(|cause| failed("watch the directory", dir, cause))
}

fn failed(doing: &'static str, path: &Path, cause: io::Error) -> SourceError {
    let advice = match cause.kind() {
        io::ErrorKind::NotFound => "; create it, or name another",
        io::ErrorKind::NotADirectory => "; name the directory of the file",
        io::ErrorKind::PermissionDenied => "; let the user that runs sluice read it",
        _ if matches!(cause.raw_os_error(), Some(24 | 28)) => {
            "; raise the sysctls fs.inotify.max_user_instances and max_user_watches"
        }
        _ => "",
    };
    SourceError { doing, path: path.to_owned(), cause, advice }
}

/// Sends a batch whenever something changed.
struct Follower {
    directory: Directory,
    watch: Watch,
    news: News,
    /// The problems that were sent last.
    said: Arc<[Problem]>,
    sender: mpsc::Sender<Batch>,
    /// When something was heard of last.
    heard: std::time::Instant,
}

impl Follower {
    /// Until the receiver is gone.
    async fn run(mut self) {
        loop {
            let sent = match self.changes().await {
                Ok(changes) => self.send(changes, None).await,
                Err(error) => {
                    let sent = self.send(Vec::new(), Some(error)).await;
                    self.come_back().await;
                    let changes = self.directory.read_all().unwrap_or_default();
                    sent.and(self.send(changes, None).await)
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Waits for files to change, and reads them.
    async fn changes(&mut self) -> Result<Vec<Change>, SourceError> {
        let heard = self.news.wait(&mut self.watch, &self.directory).await;
        self.heard = std::time::Instant::now();
        heard.map_err(|cause| failed("watch the directory", self.directory.path(), cause))?;
        if self.news.lost {
            // What happened before there was a new watch is found by reading everything.
            self.watch = watch(self.directory.path())?;
        }
        if self.news.lost || self.news.everything {
            self.news = News::default();
            let changes = self.directory.read_all();
            return changes.map_err(|cause| failed("read the directory", self.directory.path(), cause));
        }
        let seen = self.news.take().into_iter();
        let names = seen.filter(|(name, seen)| seen.is_worth_reading(&self.directory, name));
        let names: Vec<String> = names.map(|(name, _)| name).collect();
        Ok(names.iter().flat_map(|name| self.directory.read_file(name)).collect())
    }

    /// Sends what is new. `Err`: nobody is there to read it.
    async fn send(&mut self, changes: Vec<Change>, gone: Option<SourceError>) -> Result<(), ()> {
        let mut problems = self.directory.problems();
        if let Some(error) = gone {
            let shown: Arc<str> = self.directory.path().to_string_lossy().into();
            let message = format!("{error}; what its files said stays in force");
            problems.push(Problem::of_file(&shown, Severity::Error, message));
        }
        if changes.is_empty() && *problems == *self.said {
            return Ok(());
        }
        self.said = problems.into();
        let batch = Batch { heard: self.heard, changes, problems: self.said.clone() };
        self.sender.send(batch).await.map_err(|_| ())
    }

    /// Waits for a directory that has gone.
    async fn come_back(&mut self) {
        loop {
            tokio::time::sleep(RETRY).await;
            if let Ok(watch) = watch(self.directory.path()) {
                self.watch = watch;
                self.news = News::default();
                return;
            }
        }
    }
}

/// What happened to a file last.
#[derive(Clone, Copy)]
enum Seen {
    /// Its owner or mode: of interest if it could not be read.
    Touched,
    /// A name for it: complete if it is a link; if not, its writer has yet to write and close it.
    Created,
    /// Written and closed, or renamed into place.
    Complete,
    /// Deleted or renamed, as of then. Many editors and `git` do that only to put a new file in its place.
    Gone(Instant),
}

impl Seen {
    fn of(mask: EventMask) -> Seen {
        if mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
            Seen::Gone(Instant::now())
        } else if mask.contains(EventMask::ATTRIB) {
            Seen::Touched
        } else if mask.contains(EventMask::CREATE) {
            Seen::Created
        } else {
            Seen::Complete
        }
    }

    fn is_worth_reading(self, directory: &Directory, name: &str) -> bool {
        match self {
            Seen::Touched => directory.is_unreadable(name),
            Seen::Created => std::fs::symlink_metadata(directory.path().join(name))
                .is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1),
            Seen::Complete | Seen::Gone(_) => true,
        }
    }
}

/// What the kernel told of the directory.
#[derive(Default)]
struct News {
    files: BTreeMap<String, Seen>,
    /// Anything may have changed.
    everything: bool,
    /// The watch has ended: the directory was removed or renamed.
    lost: bool,
}

impl News {
    /// Waits for something to happen that does not only look like it, and for it to be over.
    async fn wait(&mut self, watch: &mut Watch, directory: &Directory) -> io::Result<()> {
        while !self.everything && !self.lost && !self.files.values().any(|seen| !matches!(seen, Seen::Gone(_))) {
            let patience = self.files.values().filter_map(|seen| match seen {
                Seen::Gone(when) => Some(*when + GRACE),
                _ => None,
            });
            let event = match patience.min() {
                None => watch.next().await,
                Some(deadline) => match tokio::time::timeout_at(deadline, watch.next()).await {
                    Ok(event) => event,
                    Err(_) => break,
                },
            };
            self.note(event, directory)?;
        }
        // The event loop's timers are good to a millisecond or two: longer than all the rest takes.
        std::thread::sleep(SETTLE);
        while let Some(event) = watch.next().now_or_never() {
            self.note(event, directory)?;
        }
        Ok(())
    }

    /// The names to act on now. Files that went only just now stay behind.
    fn take(&mut self) -> Vec<(String, Seen)> {
        let now = Instant::now();
        let is_due = |_: &String, seen: &mut Seen| !matches!(seen, Seen::Gone(when) if *when + GRACE > now);
        self.files.extract_if(.., is_due).collect()
    }

    fn note(&mut self, event: Option<io::Result<EventOwned>>, directory: &Directory) -> io::Result<()> {
        let Some(event) = event.transpose()? else {
            self.lost = true;
            return Ok(());
        };
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            self.everything = true;
        }
        if event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED) {
            self.lost = true;
        }
        let Some(name) = event.name.as_ref().and_then(|name| name.to_str()) else { return Ok(()) };
        if name.starts_with("..") {
            self.everything = true;
        } else if directory.is_of_interest(name) {
            match (Seen::of(event.mask), self.files.get(name)) {
                // A changed mode takes nothing back of what was seen before.
                (Seen::Touched, Some(_)) => {}
                (seen, _) => drop(self.files.insert(name.to_owned(), seen)),
            }
        }
        Ok(())
    }
}
