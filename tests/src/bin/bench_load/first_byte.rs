//! One client at a low rate: from the SYN to the first byte of the answer, with nothing else on the way.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::connections::{bound, nanoseconds, refused, ways};
use crate::cpu::Sample;
use crate::hello::Hellos;
use crate::server::RECORD;
use crate::{Outcome, Run};

/// Longer is a failure.
const PATIENCE: Duration = Duration::from_secs(5);

/// When the handshake was done, and when the first byte came.
struct Times {
    connect: Duration,
    answer: Duration,
}

pub fn run(run: &Run, rate: u32, sources: &[Ipv4Addr], hellos: Option<Hellos>) -> Result<Outcome> {
    let mut hellos = hellos.context("--name and --hello are missing")?;
    ensure!(rate > 0, "--rate 0: there would be no connection");
    let mut ways = ways(sources, &run.targets);
    let (mut units, mut failed, mut failure) = (0, 0, None);
    let (mut connect, mut answer) = (Vec::new(), Vec::new());
    let mut phase_ends = Instant::now() + run.warm_up();
    let mut sample: Option<Sample> = None;
    let mut next = Instant::now();
    loop {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        // Who was held up does not catch up.
        next = next.max(Instant::now()) + Duration::from_secs(1) / rate;
        let (source, target) = ways.next().context("there is no address to connect from or to")?;
        match once(source, target, hellos.next()) {
            Ok(times) => {
                units += 1;
                connect.push(nanoseconds(times.connect));
                answer.push(nanoseconds(times.answer));
            }
            Err(error) => {
                failed += 1;
                failure.get_or_insert_with(|| format!("from {source} to {target}: {error}"));
            }
        }
        if Instant::now() < phase_ends {
            continue;
        }
        let Some(begun) = &sample else {
            (units, failed, failure) = (0, 0, None);
            connect.clear();
            answer.clear();
            sample = Some(Sample::begin()?);
            phase_ends = Instant::now() + run.measure();
            continue;
        };
        ensure!(units > 0, "no connection to {:?} was answered; {failed} failed: {failure:?}", run.targets);
        let latencies = vec![("connect", connect), ("first_byte", answer)];
        return Ok(Outcome { units, failed, failure, usage: begun.end()?, latencies });
    }
}

fn once(source: Ipv4Addr, target: SocketAddrV4, hello: &[u8]) -> std::io::Result<Times> {
    let mut socket = bound(source)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let begun = Instant::now();
    socket.connect_timeout(&target.into(), PATIENCE)?;
    let connect = begun.elapsed();
    socket.write_all(hello)?;
    let mut record = [0; RECORD.len()];
    let read = socket.read(&mut record)?;
    let answer = begun.elapsed();
    match read {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ if record[0] != RECORD[0] => Err(refused(&record)),
        _ => Ok(Times { connect, answer }),
    }
}
