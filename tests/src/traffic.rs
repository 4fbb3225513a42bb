//! Clients that ask over HTTP/1.1 all the time while something happens, and what became of their requests.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ClientConfig;

use crate::lab::Node;
use crate::tls::Connection;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub struct Client {
    /// For people, and to find what became of it.
    pub name: &'static str,
    pub target: SocketAddr,
    pub host: &'static str,
    /// Speaks TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Ends when it is told, or dropped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Tally>>>,
}

impl Traffic {
    /// Each client is two: one that keeps its connection, and one that comes anew for each request.
    pub fn start(node: &Node, clients: Vec<Client>) -> Result<Traffic> {
        let stop = Arc::new(AtomicBool::new(false));
        let (node, stopped) = (Node::adopt(node.name(), node.pid())?, Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            node.block_on(|| async move {
                let mut running = JoinSet::new();
                for client in clients {
                    for stays in [true, false] {
                        running.spawn(client.clone().ask_again(stays, Arc::clone(&stopped)));
                    }
                }
                running.join_all().await
            })
        });
        Ok(Traffic { stop, thread: Some(thread) })
    }

    /// Ends it, and tells what became of it.
    pub fn end(mut self) -> Tallies {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it was not ended before");
        let tallies = Tallies(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        eprintln!("{tallies}");
        tallies
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub struct Tallies(Vec<Tally>);

impl Tallies {
    /// Of the clients of a name.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &Tally> {
        self.0.iter().filter(move |tally| tally.name == name)
    }

    /// Every request of these clients was answered.
    pub fn assert_all_answered(&self, names: &[&str]) {
        for tally in names.iter().flat_map(|name| self.of(name)) {
            assert!(tally.failures.is_empty() && tally.answered > 0, "{tally}");
        }
    }
}

impl fmt::Display for Tallies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|tally| writeln!(f, "{tally}"))
    }
}

/// What became of the requests of a client.
pub struct Tally {
    pub name: &'static str,
    /// It kept its connection as long as it could.
    pub stays: bool,
    pub answered: u32,
    /// When since the beginning, and why.
    pub failures: Vec<(Duration, String)>,
    /// The longest time from an answer to the next.
    pub gap: Duration,
    begun: Instant,
    last: Instant,
}

impl Tally {
    fn new(name: &'static str, stays: bool) -> Tally {
        let now = Instant::now();
        Tally { name, stays, answered: 0, failures: Vec::new(), gap: Duration::ZERO, begun: now, last: now }
    }

    fn count<T>(&mut self, outcome: io::Result<T>) -> Option<T> {
        match outcome {
            Ok(answer) => {
                self.answered += 1;
                self.gap = self.gap.max(self.last.elapsed());
                self.last = Instant::now();
                Some(answer)
            }
            Err(error) => {
                self.failures.push((self.begun.elapsed(), error.to_string()));
                None
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { name, stays, answered, failures, gap, .. } = self;
        let kind = if *stays { "one connection" } else { "new connections" };
        write!(f, "{name}, {kind}: {answered} answered, {} failed, at most {gap:?} without an answer", failures.len())?;
        failures.iter().take(5).try_for_each(|(at, why)| write!(f, "; after {at:?}: {why}"))
    }
}

trait Stream: AsyncBufRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncBufRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Client {
    /// One request over a connection of its own.
    pub async fn ask(&self) -> io::Result<()> {
        self.ask_over(None).await.map(drop)
    }

    async fn ask_again(self, stays: bool, stop: Arc<AtomicBool>) -> Tally {
        let mut tally = Tally::new(self.name, stays);
        let mut open = None;
        while !stop.load(Ordering::Relaxed) {
            open = tally.count(self.ask_over(open.take()).await).flatten().filter(|_| stays);
            sleep(PAUSE).await;
        }
        tally
    }

    /// Answers the connection if the server leaves it open.
    async fn ask_over(&self, open: Option<Box<dyn Stream>>) -> io::Result<Option<Box<dyn Stream>>> {
        let asking = async {
            let mut stream = match open {
                Some(stream) => stream,
                None => self.open().await?,
            };
            Ok(self.request(&mut *stream).await?.then_some(stream))
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            Some(tls) => Box::new(Connection::over(stream, self.host, tls).await?.into_stream()),
            None => Box::new(BufReader::new(stream)),
        })
    }

    /// A request and its whole answer; says whether there may be another.
    async fn request(&self, stream: &mut dyn Stream) -> io::Result<bool> {
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let (mut line, mut length, mut stays) = (String::new(), 0, true);
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !line.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(line.trim_end().to_owned()));
        }
        loop {
            line.clear();
            stream.read_line(&mut line).await?;
            let field = line.trim_end().to_ascii_lowercase();
            match field.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
                Some(("connection", "close")) => stays = false,
                Some(_) => {}
                None if line == "\r\n" => break,
                None => return Err(io::Error::other("the head of the answer is cut off")),
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        Ok(stays)
    }
}
