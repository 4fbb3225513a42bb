//! A cable that loses, doubles, delays and reorders TCP segments, as a script says: two veth pairs whose far ends lie in a node of their
//! own, and a thread that carries frames from one to the other (AF_PACKET). There is no netem on every kernel, and chance is no test.
//!
//! Offloads of both nodes at the cable are off: what the script sees is what goes over an Ethernet, one segment a frame.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Read;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::node::{Keep, Node, veth};

/// Which way a segment goes over a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the first node that the cable was laid between to the second.
    Forth,
    Back,
}

/// A TCP segment on the cable.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Which connection it belongs to, of those that came up since the last [`Wire::script`]. Others have their segments carried.
    pub connection: usize,
    /// How many of its connection went the same way before it.
    pub nth: usize,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
    pub window: u16,
    /// Of the payload, bytes.
    pub length: usize,
    /// Of the IP packet, bytes.
    pub size: usize,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
    Twice,
    /// It comes so much later.
    Late(Duration),
    /// It comes behind the next frame of its way, and after 50 ms if there is none.
    BehindNext,
}

/// After this a frame that waits for the next one goes alone.
const ALONE: Duration = Duration::from_millis(50);
/// How often the thread looks whether it is to end, at least.
const BREATH: Duration = Duration::from_millis(20);

type Script = Box<dyn FnMut(Way, &Segment) -> Fate + Send>;

#[derive(Default)]
struct State {
    script: Option<Script>,
    connections: HashMap<[SocketAddr; 2], Connection>,
    /// What went over it since the last script, if that was asked for.
    story: Vec<(Duration, Way, Segment, Fate)>,
    begun: Option<Instant>,
}

struct Connection {
    index: usize,
    segments: [usize; 2],
}

pub struct Wire {
    _node: Node,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Lays the cable as [`veth`] does.
    pub fn lay(a: (&Node, &str), b: (&Node, &str)) -> Result<Wire> {
        let node = Node::new("wire", Keep::UntilDrop)?;
        node.sysctl(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
        veth(a, (&node, "forth"))?;
        veth(b, (&node, "back"))?;
        for (node, interface) in [a, b] {
            node.offload(interface, &["tx", "tso", "gso", "gro"], false)?;
        }
        let ends = node.enter(|| Ok::<_, anyhow::Error>([end("forth")?, end("back")?]))?;
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (state, stop) = (state.clone(), stop.clone());
            std::thread::spawn(move || carry(&ends, &state, &stop))
        };
        Ok(Wire { _node: node, state, stop, thread: Some(thread) })
    }

    /// From now on this decides, and counts begin anew. What goes over the cable is kept for [`Wire::story`].
    pub fn script(&self, script: impl FnMut(Way, &Segment) -> Fate + Send + 'static) {
        *lock(&self.state) = State { script: Some(Box::new(script)), begun: Some(Instant::now()), ..State::default() };
    }

    /// From now on everything passes.
    pub fn heal(&self) {
        *lock(&self.state) = State::default();
    }

    /// What went over it since the last script, one a line: ms, way, segment, what became of it.
    pub fn story(&self) -> String {
        self.story_of(|_| true)
    }

    /// What went over it of such connections.
    pub fn story_of(&self, connections: impl Fn(usize) -> bool) -> String {
        let state = lock(&self.state);
        let of = state.story.iter().filter(|(_, _, segment, _)| connections(segment.connection));
        let line = |(at, way, segment, fate): &(Duration, Way, Segment, Fate)| {
            format!("{:9.3} {way:5?} {segment} {fate:?}\n", at.as_secs_f64() * 1000.0)
        };
        of.map(line).collect()
    }

    /// What went over it since the last script.
    pub fn seen(&self) -> Vec<(Way, Segment, Fate)> {
        lock(&self.state).story.iter().map(|(_, way, segment, fate)| (*way, segment.clone(), *fate)).collect()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let story = self.story();
            let shown: Vec<&str> = story.lines().take(200).collect();
            eprintln!("--- what went over the wire ---\n{}\n--- end ---", shown.join("\n"));
        }
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [(self.syn, 'S'), (self.ack, 'A'), (self.fin, 'F'), (self.rst, 'R')];
        let flags: String = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect();
        let Segment { connection, nth, source, destination, sequence, acknowledgement, window, length, .. } = self;
        write!(
            f,
            "{connection}#{nth} {source}>{destination} {flags} seq {sequence} ack {acknowledgement} win {window} len {length}"
        )
    }
}

/// A script that does this to the n-th segment that each connection sends a way.
pub fn nth(way: Way, n: usize, fate: Fate) -> impl FnMut(Way, &Segment) -> Fate {
    move |this, segment| if this == way && segment.nth == n { fate } else { Fate::Pass }
}

/// A script that loses so many of a thousand segments of both ways, the same ones in every run.
pub fn lossy(permille: u32) -> impl FnMut(Way, &Segment) -> Fate {
    let mut state = 0x9e37_79b9_u32;
    move |_, _| {
        // Marsaglia's xorshift: any mixing will do.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        if state % 1000 < permille { Fate::Drop } else { Fate::Pass }
    }
}

/// A poisoned lock is a script that has panicked, which the test is told by other means.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that takes and sends whole frames on an interface of this network.
fn end(interface: &str) -> Result<Socket> {
    const ALL: u16 = 0x0003;
    let protocol = Protocol::from(i32::from(ALL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("no packet socket")?;
    let addresses = nix::ifaddrs::getifaddrs().context("cannot list interfaces")?;
    let mut links = addresses.filter(|of| of.interface_name == interface).filter_map(|of| of.address);
    let link = links.find(|address| address.as_link_addr().is_some()).context("the cable has lost an end")?;
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &link)?;
    setsockopt(&socket, RcvBufForce, &(16 << 20))?;
    socket.set_nonblocking(true)?;
    // Until it was bound it took what came on any interface.
    let mut rest = [0; 64];
    while (&socket).read(&mut rest).is_ok() {}
    Ok(socket)
}

/// A frame that waits.
struct Late {
    due: Instant,
    way: Way,
    frame: Vec<u8>,
    behind_next: bool,
}

fn carry(ends: &[Socket; 2], state: &Mutex<State>, stop: &AtomicBool) {
    let mut late: VecDeque<Late> = VecDeque::new();
    let mut frame = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let wait = late.iter().map(|late| late.due.saturating_duration_since(now)).min().unwrap_or(BREATH).min(BREATH);
        let readable = wait_for_frames(ends, wait);
        for (index, way) in [Way::Forth, Way::Back].into_iter().enumerate() {
            if !readable[index] {
                continue;
            }
            // Some at a time, so that neither way starves the other.
            for _ in 0..64 {
                let Ok(length) = (&ends[index]).read(&mut frame) else { break };
                let fate = decide(state, way, &frame[..length]);
                let behind = late.iter().position(|late| late.behind_next && late.way == way);
                match fate {
                    Fate::Pass => send(ends, way, &frame[..length]),
                    Fate::Drop => {}
                    Fate::Twice => {
                        send(ends, way, &frame[..length]);
                        send(ends, way, &frame[..length]);
                    }
                    Fate::Late(by) => late.push_back(wait_until(now + by, way, &frame[..length], false)),
                    Fate::BehindNext => late.push_back(wait_until(now + ALONE, way, &frame[..length], true)),
                }
                if let Some(behind) = behind.and_then(|position| late.remove(position)) {
                    send(ends, way, &behind.frame);
                }
            }
        }
        let now = Instant::now();
        let (due, waiting): (VecDeque<Late>, VecDeque<Late>) =
            mem::take(&mut late).into_iter().partition(|late| late.due <= now);
        late = waiting;
        for Late { way, frame, .. } in due {
            send(ends, way, &frame);
        }
    }
}

fn wait_until(due: Instant, way: Way, frame: &[u8], behind_next: bool) -> Late {
    Late { due, way, frame: frame.to_vec(), behind_next }
}

fn wait_for_frames(ends: &[Socket; 2], at_most: Duration) -> [bool; 2] {
    let mut fds = [
        PollFd::from_borrowed_fd(ends[0].as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(ends[1].as_fd(), PollFlags::IN),
    ];
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(at_most.subsec_nanos()) };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => fds.map(|fd| !fd.revents().is_empty()),
        Err(_) => [false; 2],
    }
}

/// A frame that does not fit or finds a full queue is lost, as on any cable.
fn send(ends: &[Socket; 2], way: Way, frame: &[u8]) {
    let to = match way {
        Way::Forth => &ends[1],
        Way::Back => &ends[0],
    };
    let _ = to.send(frame);
}

fn decide(state: &Mutex<State>, way: Way, frame: &[u8]) -> Fate {
    let mut state = lock(state);
    let State { script: Some(script), connections, story, begun } = &mut *state else { return Fate::Pass };
    let Some(mut segment) = segment(frame) else { return Fate::Pass };
    let mut ends = [segment.source, segment.destination];
    ends.sort();
    // What is left of those before the script is none of it.
    if !connections.contains_key(&ends) && (!segment.syn || segment.ack) {
        return Fate::Pass;
    }
    let index = connections.len();
    let connection = connections.entry(ends).or_insert(Connection { index, segments: [0; 2] });
    let count = &mut connection.segments[way as usize];
    (segment.connection, segment.nth) = (connection.index, *count);
    *count += 1;
    let fate = script(way, &segment);
    // The beginning tells most; a bulk transfer would fill the memory.
    if story.len() < 10_000 {
        story.push((begun.map_or(Duration::ZERO, |begun| begun.elapsed()), way, segment, fate));
    }
    fate
}

/// None: a frame that is not for scripts.
fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination, size): (IpAddr, IpAddr, usize) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), header.total_len().into())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let size = 40 + usize::from(header.payload_length());
            (header.source_addr().into(), header.destination_addr().into(), size)
        }
        _ => return None,
    };
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    Some(Segment {
        connection: 0,
        nth: 0,
        source: (source, tcp.source_port()).into(),
        destination: (destination, tcp.destination_port()).into(),
        sequence: tcp.sequence_number(),
        acknowledgement: tcp.acknowledgment_number(),
        syn: tcp.syn(),
        ack: tcp.ack(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        window: tcp.window_size(),
        length: tcp.payload().len(),
        size,
    })
}
