//! Bulk throughput: a few connections over which servers send, at a rate or as fast as they can.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cpu::Sample;
use crate::hello::Hellos;
use crate::{Outcome, Run};

/// What one read takes and one write gives.
pub const CHUNK: usize = 128 * 1024;

pub fn run(run: &Run, connections: usize, mbit: u64, mut hellos: Option<Hellos>) -> Result<Outcome> {
    let rate = mbit * 1_000_000 / 8 / connections as u64;
    let bytes = AtomicU64::new(0);
    let streams = (0..connections).map(|i| {
        let target = run.targets[i % run.targets.len()];
        let mut stream = TcpStream::connect(target).with_context(|| format!("cannot connect to {target}"))?;
        if let Some(hellos) = &mut hellos {
            stream.write_all(hellos.next())?;
        }
        stream.write_all(&rate.to_be_bytes())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    });
    let streams = streams.collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(|| take(stream, &bytes));
        }
        let measured = measure(run, &bytes);
        for stream in &streams {
            // Wakes the thread that reads; the server may have gone first.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        measured
    })
}

fn measure(run: &Run, bytes: &AtomicU64) -> Result<Outcome> {
    std::thread::sleep(run.warm_up());
    let sample = Sample::begin()?;
    let before = bytes.load(Ordering::Relaxed);
    std::thread::sleep(run.measure());
    let units = bytes.load(Ordering::Relaxed) - before;
    let usage = sample.end()?;
    ensure!(units > 0, "nothing came from {:?}", run.targets);
    Ok(Outcome { units, failed: 0, failure: None, usage, latencies: Vec::new() })
}

/// Reads until the end, or until the connection is shut down.
fn take(mut stream: &TcpStream, bytes: &AtomicU64) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        bytes.fetch_add(read as u64, Ordering::Relaxed);
    }
}
