//! Clients and servers beside the nodes: threads in the network of the control plane, with sockets that block.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::cluster::http::{Answer, exchange};

/// Longer than anything that is fine.
const ANSWER: Duration = Duration::from_secs(5);

/// Says its name to every request, by connections that stay.
pub fn serve(at: SocketAddr, name: &'static str) -> Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve_one(stream, name));
        }
    });
    Ok(())
}

fn serve_one(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            stream.get_mut().write_all(answer.as_bytes())?;
        }
    }
}

/// A client that keeps its connection while it holds.
pub struct Asker {
    to: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Asker {
    pub fn new(to: SocketAddr) -> Asker {
        Asker { to, stream: None }
    }

    pub fn get(&mut self, host: &str, path: &str) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.to, ANSWER)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER))?;
                BufReader::new(stream)
            }
        };
        let answer = exchange(&mut stream, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

/// How long it is until somebody answers as wanted.
pub fn until(patience: Duration, mut is_so: impl FnMut() -> bool) -> Result<Duration> {
    let begun = Instant::now();
    while !is_so() {
        ensure!(begun.elapsed() < patience, "not within {} s", patience.as_secs());
        // Requests without a pause would take a core from the agent.
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(begun.elapsed())
}

/// What clients of a load saw.
#[derive(Default)]
pub struct Seen {
    pub requests: usize,
    pub failed: usize,
    /// What a client saw of one that failed.
    pub failure: Option<String>,
    /// Milliseconds without a good answer.
    pub longest_gap: f64,
}

impl Seen {
    pub fn add(&mut self, other: Seen) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
        self.longest_gap = self.longest_gap.max(other.longest_gap);
    }
}

/// Requests, one after the other, until it is told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// `fresh`: each request by a connection of its own.
    pub fn start(clients: usize, to: SocketAddr, host: &'static str, fresh: bool) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || ask(to, host, fresh, &stop))
        };
        Load { clients: (0..clients).map(client).collect(), stop }
    }

    pub fn end(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            all.add(client.join().ok().context("a client panicked")?);
        }
        ensure!(all.requests > 0, "no request was sent");
        Ok(all)
    }
}

fn ask(to: SocketAddr, host: &str, fresh: bool, stop: &AtomicBool) -> Seen {
    let mut asker = Asker::new(to);
    let (mut seen, mut last) = (Seen::default(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        seen.requests += 1;
        let failure = match asker.get(host, "/") {
            Ok(answer) if answer.status == 200 => None,
            Ok(answer) => Some(format!("status {}", answer.status)),
            Err(error) => Some(error.to_string()),
        };
        match failure {
            None => {
                seen.longest_gap = seen.longest_gap.max(last.elapsed().as_secs_f64() * 1e3);
                last = Instant::now();
            }
            Some(failure) => {
                seen.failed += 1;
                seen.failure.get_or_insert(failure);
            }
        }
        if fresh {
            asker = Asker::new(to);
        }
        // Both cores are the agents' and the API server's too.
        std::thread::sleep(Duration::from_millis(2));
    }
    // Of a client that gets no answer any more this is the longest.
    seen.longest_gap = seen.longest_gap.max(last.elapsed().as_secs_f64() * 1e3);
    seen
}
