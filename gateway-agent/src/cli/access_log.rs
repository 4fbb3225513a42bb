//! Reads events of connections: for `--access-log`, a JSON line a connection opened, closed, refused or tried elsewhere, and for
//! those who watch.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use gateway_common::{Event, event_kind};
use rustix::time::{ClockId, clock_gettime};

use crate::admin::{Watchers, event_line};
use crate::agent::Agent;
use crate::datapath::Events;

pub struct AccessLog {
    events: Events,
    to: Option<BufWriter<Box<dyn Write + Send>>>,
}

/// Most events written at a time, so that other work goes on.
const BURST: usize = 4096;

/// That files of logs were moved away is said here (SIGHUP).
#[derive(Clone, Default)]
pub struct Moves(Arc<AtomicU64>);

impl Moves {
    pub fn say(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where to write; `-` is standard output.
pub fn open(path: &Path, moves: &Moves) -> anyhow::Result<Box<dyn Write + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = append(path).with_context(|| format!("cannot write the access log {}", path.display()))?;
    Ok(Box::new(LogFile { path: path.to_owned(), file, moves: moves.clone(), seen: moves.0.load(Ordering::Relaxed) }))
}

/// When it has been moved away, the next line begins a new one.
struct LogFile {
    path: PathBuf,
    file: File,
    moves: Moves,
    seen: u64,
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let moves = self.moves.0.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.seen, moves) != moves {
            match append(&self.path) {
                Ok(file) => self.file = file,
                Err(error) => {
                    let path = self.path.display();
                    tracing::error!(%path, %error, "cannot open the access log anew; lines go where they went before");
                }
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl AccessLog {
    /// Without a place to write to it is for those who watch only.
    pub fn new(to: Option<Box<dyn Write + Send>>, events: Events) -> AccessLog {
        AccessLog { events, to: to.map(BufWriter::new) }
    }

    pub fn is_written(&self) -> bool {
        self.to.is_some()
    }

    /// What came before anybody watched is nobody's.
    pub fn forget(&mut self) {
        self.events.by_ref().for_each(drop);
    }

    /// Tells what has come since the last call.
    pub fn tell(&mut self, agent: &RefCell<Agent>, watchers: &Watchers) {
        let Some(first) = self.events.next() else { return };
        let mut agent = agent.borrow_mut();
        let names = agent.names();
        let (boot, watched) = (boot_time(), !watchers.is_empty());
        let mut written = Ok(());
        for event in std::iter::once(first).chain(&mut self.events).take(BURST) {
            let Ok(mut line) = serde_json::to_vec(&event_line(&event, names, boot)) else { continue };
            line.push(b'\n');
            if let Some(to) = self.to.as_mut().filter(|_| written.is_ok() && is_for_the_log(&event)) {
                written = to.write_all(&line);
            }
            if watched {
                watchers.send(&line.into());
            }
        }
        if let Some(to) = &mut self.to
            && let Err(error) = written.and_then(|()| to.flush())
        {
            tracing::error!(%error, "the access log ends");
            self.to = None;
        }
    }
}

/// That all went well is said by what did not happen.
fn is_for_the_log(event: &Event) -> bool {
    event.kind != event_kind::DELIVERED
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// When the monotonic clock was 0, ns since 1970.
fn boot_time() -> i128 {
    let ns = |clock| {
        let time = clock_gettime(clock);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    ns(ClockId::Realtime) - ns(ClockId::Monotonic)
}
