//! UDP datagrams there and back. Each flow keeps a few on their way, so no queue overflows and what is counted is what came
//! through; a unit is one datagram in one direction.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cpu::Sample;
use crate::events::{Events, READ};
use crate::{Outcome, Run};

const MESSAGE: [u8; 64] = [b'q'; 64];
/// What has not come back after this is lost.
const LOST: Duration = Duration::from_millis(100);

struct Flow {
    socket: UdpSocket,
    on_their_way: u32,
    last_answer: Instant,
}

pub fn run(run: &Run, flows: usize, window: u32) -> Result<Outcome> {
    let mut events = Events::new()?;
    let flows = (0..flows).map(|i| Flow::open(&events, i, run.targets[i % run.targets.len()]));
    let mut flows = flows.collect::<Result<Vec<_>>>()?;
    let (mut answers, mut lost) = (0, 0);
    let mut phase_ends = Instant::now() + run.warm_up();
    let mut sample: Option<Sample> = None;
    let mut ready = Vec::new();
    loop {
        for flow in &mut flows {
            lost += flow.write_off();
            flow.fill(window)?;
        }
        // The clock and the losses need a look only now and then.
        for _ in 0..64 {
            events.wait(&mut ready, Duration::from_millis(5))?;
            if ready.is_empty() {
                break;
            }
            for &index in &ready {
                answers += flows[index].take()?;
                flows[index].fill(window)?;
            }
        }
        if Instant::now() < phase_ends {
            continue;
        }
        let Some(begun) = &sample else {
            (answers, lost) = (0, 0);
            sample = Some(Sample::begin()?);
            phase_ends = Instant::now() + run.measure();
            continue;
        };
        ensure!(answers > 0, "no datagram came back from {:?}", run.targets);
        return Ok(Outcome {
            units: 2 * answers,
            failed: lost,
            failure: None,
            usage: begun.end()?,
            latencies: Vec::new(),
        });
    }
}

impl Flow {
    fn open(events: &Events, index: usize, target: SocketAddrV4) -> Result<Flow> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(target).with_context(|| format!("there is no way to {target}"))?;
        events.watch(&socket, index, READ)?;
        Ok(Flow { socket, on_their_way: 0, last_answer: Instant::now() })
    }

    /// Takes the answers that are there.
    fn take(&mut self) -> Result<u64> {
        let mut answers = 0;
        let mut buffer = [0; MESSAGE.len()];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(_) => {
                    answers += 1;
                    self.on_their_way = self.on_their_way.saturating_sub(1);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("a datagram was refused"),
            }
        }
        if answers > 0 {
            self.last_answer = Instant::now();
        }
        Ok(answers)
    }

    fn fill(&mut self, window: u32) -> Result<()> {
        while self.on_their_way < window {
            self.socket.send(&MESSAGE).context("cannot send a datagram")?;
            self.on_their_way += 1;
        }
        Ok(())
    }

    /// Gives up what did not come back, and says how much that is.
    fn write_off(&mut self) -> u64 {
        if self.on_their_way == 0 || self.last_answer.elapsed() < LOST {
            return 0;
        }
        self.last_answer = Instant::now();
        u64::from(std::mem::take(&mut self.on_their_way))
    }
}
