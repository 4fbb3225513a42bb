//! The maps, with their default sizes, and what is only the programs' own.

use aya_ebpf::btf_maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, RingBuf, SockMap};
use aya_ebpf::macros::btf_map;
use gateway_common::{
    Address, Announced, Backend, BackendSet, Collecting, Config, CookieKey, Counter, Event, Flow, FlowKey, FragmentKey,
    FragmentTrack, HELLO_BYTES, HELLO_PIECE, Handshake, HeldFragment, HeldKey, Hello, Interface, Listener, ListenerKey,
    SNI_NAME, SniKey, SniName, reason::REASONS, sizes,
};

use crate::atomic;
use crate::bind::Errand;
use crate::frame::opaque;
use crate::name::Search;
use crate::options::Options;
use crate::parse::Packet;
use crate::redirect::NextHop;
use crate::segment::Segment;

#[btf_map]
pub static LISTENERS: HashMap<ListenerKey, Listener, { sizes::LISTENERS }> = HashMap::new();
#[btf_map]
pub static BACKEND_SETS: Array<BackendSet, { sizes::BACKEND_SETS }> = Array::new();
#[btf_map]
pub static SLOTS: Array<u32, { sizes::SLOTS }> = Array::new();
#[btf_map]
pub static BACKENDS: HashMap<u32, Backend, { sizes::BACKENDS }> = HashMap::new();
#[btf_map]
pub static FLOWS: HashMap<FlowKey, Flow, { sizes::FLOWS }> = HashMap::new();
#[btf_map]
pub static EMBRYONIC: LruHashMap<FlowKey, Flow, { sizes::EMBRYONIC }> = LruHashMap::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentTrack, { sizes::FRAGMENTS }> = LruHashMap::new();
#[btf_map]
pub static HELD: LruHashMap<HeldKey, HeldFragment, { sizes::HELD }> = LruHashMap::new();
/// Entries take memory when they are written.
const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;
#[btf_map]
pub static SNI: HashMap<SniKey, SniName, { sizes::SNI }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static HANDSHAKES: LruHashMap<FlowKey, Handshake, { sizes::HANDSHAKES }> = LruHashMap::new();
#[btf_map]
pub static COLLECTING: LruHashMap<FlowKey, Collecting, { sizes::COLLECTING }> = LruHashMap::new();
#[btf_map]
pub static HELLOS: Array<Hello, { sizes::HELLOS }> = Array::new();
#[btf_map]
pub static COOKIE_KEY: Array<CookieKey, 1> = Array::new();
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static DROPS: PerCpuArray<u64, REASONS> = PerCpuArray::new();
#[btf_map]
pub static LISTENER_COUNTERS: PerCpuArray<Counter, { sizes::LISTENER_IDS }> = PerCpuArray::new();
#[btf_map]
pub static BACKEND_COUNTERS: PerCpuArray<Counter, { sizes::BACKENDS }> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, { sizes::EVENTS }> = RingBuf::new();
#[btf_map]
pub static EVENTS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
pub static INTERFACES: HashMap<u32, Interface, { sizes::INTERFACES }> = HashMap::new();
#[btf_map]
pub static XDP_PORTS: DevMapHash<{ sizes::XDP_PORTS }> = DevMapHash::new();
#[btf_map]
pub static ANNOUNCED: HashMap<Address, Announced, { sizes::ANNOUNCED }, NO_PREALLOC> = HashMap::new();
/// One for each worker of the agent. The kernel takes out sockets that are closed.
#[btf_map]
pub static AGENT_SOCKETS: SockMap<{ sizes::AGENT_SOCKETS }> = SockMap::new();

/// Working memory that would not fit on the 512 bytes of stack. Programs run with bottom halves off: one user a CPU.
#[repr(C)]
pub struct Scratch {
    pub packet: Packet,
    pub forward: Flow,
    pub reply: Flow,
    /// The key of the reply half.
    pub other: FlowKey,
    pub held: HeldFragment,
    pub segment: Segment,
    pub options: Options,
    pub errand: Errand,
    /// Of the sender of the segment in hand.
    pub handshake: Handshake,
    /// Where that came from: one of [`crate::splice::known`].
    pub known: u32,
    /// The slot of its hello, if COLLECTING has one.
    pub slot: u32,
    pub next_hop: NextHop,
    pub released: Released,
    /// The server name asked for, in lower case, if this run of the program has read one ([`Scratch::named`]). Beyond the first
    /// 64 bytes what does not belong to it is not cleared.
    pub name: [u8; SNI_NAME],
    pub named: bool,
    pub search: Search,
    /// A ClientHello without its record headers.
    pub message: [u8; HELLO_BYTES + HELLO_PIECE],
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: per CPU, and only one program runs on a CPU at a time.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// Slots of HELLOS that this CPU released last: they are still in its caches.
#[repr(C)]
pub struct Released {
    slots: [u32; Released::KEPT as usize],
    count: u32,
}

impl Released {
    /// A power of two.
    const KEPT: u32 = 8;

    /// What there is no room for is not remembered.
    #[inline(always)]
    pub fn push(&mut self, slot: u32) {
        if self.count < Released::KEPT {
            *self.place() = slot;
            self.count += 1;
        }
    }

    /// The last one. 0: there is none.
    #[inline(always)]
    pub fn pop(&mut self) -> u32 {
        if self.count == 0 {
            return 0;
        }
        self.count -= 1;
        *self.place()
    }

    #[inline(always)]
    fn place(&mut self) -> &mut u32 {
        &mut self.slots[(opaque(self.count as u64) & (Released::KEPT as u64 - 1)) as usize]
    }
}

/// Working memory at the start of a program; answers its packet, unset.
#[inline(always)]
pub fn begin() -> Option<&'static mut Packet> {
    let scratch = scratch()?;
    scratch.named = false;
    scratch.next_hop.family = 0;
    scratch.known = 0;
    scratch.packet = Packet::new();
    Some(&mut scratch.packet)
}

#[btf_map]
static HELLO_CURSOR: Array<u64, 1> = Array::new();

/// Counts the claims of slots in HELLOS, on all CPUs.
#[inline(always)]
pub fn hello_cursor() -> u32 {
    match HELLO_CURSOR.get_ptr_mut(0) {
        Some(cursor) => atomic::increment(cursor) as u32,
        None => 0,
    }
}

/// Token bucket of ICMP errors, per CPU.
#[repr(C)]
pub struct Bucket {
    pub tokens: u64,
    /// ns
    pub filled: u64,
}

#[btf_map]
static ICMP_BUCKET: PerCpuArray<Bucket, 1> = PerCpuArray::new();

#[inline(always)]
pub fn icmp_bucket() -> Option<&'static mut Bucket> {
    // SAFETY: as above.
    ICMP_BUCKET.get_ptr_mut(0).map(|bucket| unsafe { &mut *bucket })
}
