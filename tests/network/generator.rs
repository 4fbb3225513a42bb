//! Packets as fast as one thread can send them: whole frames that are made beforehand, given to the driver some hundreds at a time
//! (`sendmmsg`), past every queue (`PACKET_QDISC_BYPASS`).

use std::fmt;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway_tests::lab::Node;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::SetBool;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, setsockopt, socket,
};
use nix::time::{ClockId, clock_gettime};

/// How many sources are forged.
pub const SOURCES: u32 = 1 << 16;
/// Frames a system call.
const BATCH: usize = 512;

/// packet(7)
#[derive(Clone, Copy)]
struct QdiscBypass;
nix::setsockopt_impl!(QdiscBypass, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, bool, SetBool);

/// Makes a packet, with its IP header, from a source to a target of the same IP version.
pub type Forge<'f> = &'f (dyn Fn(SocketAddr, SocketAddr) -> Vec<u8> + Sync);

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub packets: u64,
    pub elapsed: Duration,
    /// Of the thread that sends: what receives runs on it, too.
    pub cpu: Duration,
}

impl Sent {
    pub fn per_cpu_second(&self) -> f64 {
        self.packets as f64 / self.cpu.as_secs_f64()
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sent { packets, elapsed, .. } = self;
        let rate = *packets as f64 / elapsed.as_secs_f64();
        write!(f, "{packets} packets in {elapsed:.1?}, {rate:.0} a second")?;
        write!(f, " ({:.0} in a second of its CPU)", self.per_cpu_second())
    }
}

/// A source that nobody has.
fn source(index: u32, target: SocketAddr) -> SocketAddr {
    let [_, _, c, d] = index.to_be_bytes();
    let address: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::new(198, 19, c, d).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, c.into(), d.into()).into(),
    };
    SocketAddr::new(address, 1024 + (index.wrapping_mul(2_654_435_761) >> 16) as u16 % 60_000)
}

/// Whether the bytes of a key of a map have such a source in them.
pub fn is_forged(key: &[u8]) -> bool {
    let has = |part: &[u8]| key.windows(part.len()).any(|window| window == part);
    has(&[0xff, 0xff, 198, 19]) || has(&[0x20, 0x01, 0x0d, 0xb8, 0, 0x0f, 0, 0])
}

/// Floods the target from this node's interface until told to stop, towards the node whose interface is on the other end.
pub fn flood(from: (&Node, &str), to: (&Node, &str), target: SocketAddr, forge: Forge, stop: &AtomicBool) -> Sent {
    let ethernet = [mac(to), mac(from)].concat();
    let kind: u16 = if target.is_ipv4() { 0x0800 } else { 0x86dd };
    let frames: Vec<Vec<u8>> = (0..SOURCES)
        .map(|index| [&ethernet[..], &kind.to_be_bytes(), &forge(source(index, target), target)].concat())
        .collect();
    let slices: Vec<[IoSlice; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
    from.0.enter(|| {
        let socket = open(from.1);
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
        let nobody = vec![None; BATCH];
        let (begun, worked) = (Instant::now(), clock());
        let mut packets = 0;
        'all: loop {
            let mut left = &slices[..];
            while !left.is_empty() {
                if stop.load(Ordering::Relaxed) {
                    break 'all;
                }
                let some = &left[..left.len().min(BATCH)];
                match sendmmsg(socket.as_raw_fd(), &mut headers, some, &nobody, [], MsgFlags::empty()) {
                    Ok(sent) => {
                        let sent = sent.count();
                        packets += sent as u64;
                        left = &left[sent..];
                    }
                    // The receiver is slower than we are.
                    Err(Errno::ENOBUFS | Errno::EAGAIN) => std::thread::yield_now(),
                    Err(error) => panic!("cannot send on {}: {error}", from.1),
                }
            }
        }
        Sent { packets, elapsed: begun.elapsed(), cpu: clock() - worked }
    })
}

/// A packet socket that sends and takes nothing.
fn open(interface: &str) -> OwnedFd {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, QdiscBypass, &true).unwrap();
    let mut links = nix::ifaddrs::getifaddrs().unwrap().filter(|of| of.interface_name == interface);
    let link = links.find_map(|of| of.address.filter(|address| address.as_link_addr().is_some())).unwrap();
    bind(socket.as_raw_fd(), &link).unwrap();
    socket
}

/// What this thread has had of a CPU.
fn clock() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32)
}

fn mac((node, interface): (&Node, &str)) -> Vec<u8> {
    let text = node.run(&format!("cat /sys/class/net/{interface}/address")).unwrap();
    text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}
