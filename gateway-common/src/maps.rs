//! Keys and values of the maps pinned under `/sys/fs/bpf/sluice`: the kernel/user ABI.
//!
//! Every struct is `repr(C)`, has no implicit padding and its size asserted. Index or id 0 means unset.

use core::mem::{align_of, size_of};

/// Names of the maps, as in the object file and below the pin directory.
pub mod names {
    pub const LISTENERS: &str = "LISTENERS";
    pub const BACKEND_SETS: &str = "BACKEND_SETS";
    pub const SLOTS: &str = "SLOTS";
    pub const BACKENDS: &str = "BACKENDS";
    pub const FLOWS: &str = "FLOWS";
    pub const EMBRYONIC: &str = "EMBRYONIC";
    pub const FRAGMENTS: &str = "FRAGMENTS";
    pub const HELD: &str = "HELD";
    pub const CONFIG: &str = "CONFIG";
    pub const DROPS: &str = "DROPS";
    pub const LISTENER_COUNTERS: &str = "LISTENER_COUNTERS";
    pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";
    pub const EVENTS: &str = "EVENTS";
    pub const EVENTS_LOST: &str = "EVENTS_LOST";
    pub const XDP_PORTS: &str = "XDP_PORTS";
    pub const INTERFACES: &str = "INTERFACES";
    pub const SNI: &str = "SNI";
    pub const HANDSHAKES: &str = "HANDSHAKES";
    pub const COLLECTING: &str = "COLLECTING";
    pub const HELLOS: &str = "HELLOS";
    pub const COOKIE_KEY: &str = "COOKIE_KEY";
    pub const AGENT_SOCKETS: &str = "AGENT_SOCKETS";
    pub const ANNOUNCED: &str = "ANNOUNCED";
}

/// Default number of entries of each map; the agent's options change some of them at load.
pub mod sizes {
    /// (address, port, protocol) entries, plus one an exclusive Gateway address.
    pub const LISTENERS: usize = 16_384;
    /// Ids of listeners (a listener may have several addresses) and so of their counters.
    pub const LISTENER_IDS: usize = 4_096;
    pub const BACKEND_SETS: usize = 8_192;
    /// 8 bytes each (the kernel rounds up).
    pub const SLOTS: usize = 1_310_720;
    pub const BACKENDS: usize = 16_384;
    /// Halves of connections: two entries a connection.
    pub const FLOWS: usize = 131_072;
    pub const EMBRYONIC: usize = 32_768;
    /// Datagrams under way, and address pairs of UDP flows.
    pub const FRAGMENTS: usize = 8_192;
    pub const HELD: usize = 1_024;
    /// Bytes.
    pub const EVENTS: usize = 1 << 20;
    pub const INTERFACES: usize = 1_024;
    pub const XDP_PORTS: usize = 256;
    /// Server names, once for each address and port. The memory of an entry is taken when it is written.
    pub const SNI: usize = 65_536;
    /// TLS clients that have proved their address and said nothing yet, or were refused.
    pub const HANDSHAKES: usize = 8_192;
    /// More than HELLOS has slots: a slot is given away before its entry here.
    pub const COLLECTING: usize = 2_048;
    /// ClientHellos under way at a time; a multiple of [`super::HELLO_CHOICE`].
    pub const HELLOS: usize = 512;
    /// Addresses of Gateways that some node answers for on its links. The memory of an entry is taken when it is written.
    pub const ANNOUNCED: usize = 16_384;
    /// Workers of the agent that take connections.
    pub const AGENT_SOCKETS: usize = 256;
}

macro_rules! map_types {
    ($($name:ident: $size:literal align $align:literal),+ $(,)?) => {
        $(
            const _: () = assert!(size_of::<$name>() == $size && align_of::<$name>() == $align);
            // SAFETY: repr(C), no implicit padding (size asserted above), every bit pattern is valid.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $name {}
        )+
    };
}

map_types! {
    Address: 16 align 8,
    ListenerKey: 24 align 8,
    Listener: 16 align 4,
    BackendSet: 8 align 8,
    Backend: 40 align 8,
    FlowKey: 40 align 8,
    Route: 32 align 8,
    Flow: 112 align 8,
    FragmentKey: 40 align 8,
    FragmentTrack: 48 align 8,
    Interface: 40 align 8,
    HeldKey: 48 align 8,
    HeldFragment: 1544 align 8,
    Config: 64 align 8,
    Counter: 64 align 8,
    Event: 160 align 8,
    SniKey: 32 align 8,
    SniName: 280 align 8,
    Handshake: 12 align 4,
    Collecting: 8 align 4,
    Hello: 9416 align 8,
    CookieKey: 16 align 8,
    Announced: 8 align 2,
}

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialOrd, Ord)]
pub struct Address {
    pub octets: [u8; 16],
}

// By words: what is derived compares byte by byte in eBPF.
impl PartialEq for Address {
    #[inline(always)]
    fn eq(&self, other: &Address) -> bool {
        let ([a, b], [c, d]) = (self.words(), other.words());
        (a ^ c) | (b ^ d) == 0
    }
}

impl core::hash::Hash for Address {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.words().hash(state);
    }
}

impl Address {
    pub const UNSET: Address = Address { octets: [0; 16] };

    #[inline(always)]
    pub const fn v4(o: [u8; 4]) -> Address {
        Address { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]] }
    }

    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Address {
        Address { octets }
    }

    /// From the two halves as they lie in memory.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Address {
        // SAFETY: both are 16 plain bytes. LLVM would copy them one by one, because eBPF has no unaligned access.
        unsafe { core::mem::transmute::<[u64; 2], Address>(words) }
    }

    /// The two halves as they lie in memory.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        // SAFETY: as above, and an Address is aligned for it.
        unsafe { core::mem::transmute::<Address, [u64; 2]>(*self) }
    }

    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [high, low] = self.words();
        high == 0 && (u64::from_be(low) >> 32) == 0xffff
    }
}

/// IANA protocol numbers of what a listener can have, and the two the pipeline reads.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

/// LISTENERS: key. Port 0 with protocol 0 is the entry of the address itself. If it belongs to Gateways alone, what
/// comes to it and finds no listener is refused instead of passed to the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerKey {
    pub address: Address,
    pub port: u16,
    pub protocol: u8,
    pub _pad: [u8; 5],
}

/// What happens to what a listener matches.
pub mod listener_kind {
    /// Pick a backend, rewrite, redirect.
    pub const L4: u8 = 1;
    /// No listener: the entry of an address that belongs to Gateways alone (port 0, protocol 0).
    pub const EXCLUSIVE: u8 = 2;
    /// No listener: the entry of an address of the node that Gateways share (port 0, protocol 0).
    pub const SHARED: u8 = 3;
    /// TCP: accept, read the server name of the ClientHello, and look it up in SNI.
    pub const TLS: u8 = 4;
    /// TCP: the node's stack takes it, and `steer` gives it to a socket in AGENT_SOCKETS.
    pub const L7: u8 = 5;
}

/// LISTENERS: value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// One of [`listener_kind`].
    pub kind: u8,
    pub _pad: u8,
    /// TLS: the smallest MTU on the ways to its backends, bytes of the IP packet; 0: not known. The client is offered an MSS
    /// that fits.
    pub mtu: u16,
    /// Index in LISTENER_COUNTERS. Listeners of one Gateway listener on several addresses share it. TLS: the first by name
    /// of the listeners on this address and port; what is known of a server name counts for the listener in [`SniName`].
    pub id: u32,
    /// L4: index in BACKEND_SETS; 0: no route is attached.
    pub backend_set: u32,
    /// TLS: bit n is set if SNI has a wildcard name of n labels after the asterisk for this address and port (31: 31 or more;
    /// 0: the name of everybody, `*`).
    pub wildcards: u32,
}

/// SNI: key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SniKey {
    /// The Gateway's.
    pub address: Address,
    /// [`crate::server_name::hash`] of an exact name, or of what follows `*.` in a wildcard name.
    pub hash: u64,
    pub port: u16,
    /// 1: a wildcard name.
    pub wildcard: u8,
    pub _pad: [u8; 5],
}

/// Bytes of [`SniName::name`].
pub const SNI_NAME: usize = 256;

/// SNI: value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SniName {
    /// Index in BACKEND_SETS; 0: a listener has this hostname, and no route takes it: refused.
    pub backend_set: u32,
    /// Index in LISTENER_COUNTERS.
    pub listener: u32,
    /// Connections that came by this name, counted by the programs. A new value of the agent takes it over.
    pub hits: u64,
    /// One of [`sni_mode`].
    pub mode: u8,
    pub _pad: [u8; 7],
    /// For people: as the manifests have it, in lower case; the rest is 0. The name of everybody is `*`.
    pub name: [u8; SNI_NAME],
}

pub mod sni_mode {
    /// To the backends of the set, inside the kernel.
    pub const PASSTHROUGH: u8 = 1;
    /// To the agent ([`super::agent_backend`]), which ends TLS.
    pub const TERMINATE: u8 = 2;
    /// To the agent, which ends TLS and reads HTTP: there is no set.
    pub const HTTPS: u8 = 3;
}

/// BACKENDS ids of the agent's own sockets, one a family. Their port is the first of [`agent_backend::PORTS`] in a row, so that a
/// client that uses one port of its own towards two Gateways finds another one.
pub mod agent_backend {
    pub const V4: u32 = 1;
    pub const V6: u32 = 2;
    /// Ids of real backends start here.
    pub const FIRST_OTHER: u32 = 3;
    pub const PORTS: u16 = 8;
}

/// HANDSHAKES: value, a TLS client that has proved its address and said nothing yet, or that was refused. The key is its 5-tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The first sequence number of the client's data, host order.
    pub client_sequence: u32,
    /// The first sequence number of the gateway's data: the SYN cookie and one.
    pub our_sequence: u32,
    /// What the client's SYN offered ([`crate::cookie::Options`]).
    pub options: u8,
    /// Not 0: the TLS alert that it was refused with.
    pub alert: u8,
    pub _pad: [u8; 2],
}

/// COLLECTING: value, a TLS client of whose ClientHello a part has come. The key is its 5-tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collecting {
    /// Index in HELLOS.
    pub slot: u32,
    /// As in [`Handshake`].
    pub our_sequence: u32,
}

/// Bytes of a ClientHello that the kernel keeps; the window that a new client is offered.
pub const HELLO_BYTES: usize = 8_192;
/// Room for a PROXY protocol v2 header (28 bytes for IPv4, 52 for IPv6).
pub const PROXY_BYTES: usize = 56;
/// Bytes that are copied at once.
pub const HELLO_PIECE: usize = 1_024;
/// A new ClientHello takes the place of the one of so many that waits longest.
pub const HELLO_CHOICE: u32 = 4;

/// A run of bytes that came before those in front of it, relative to the first byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Island {
    pub start: u16,
    /// The first byte after it; 0: none.
    pub end: u16,
}

/// HELLOS: value. Index 0 is not used. Sequence numbers are in host order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hello {
    /// Whose it is: the 5-tuple of the client; unset: nobody's.
    pub client: FlowKey,
    /// Coarse monotonic time of the last packet, ns.
    pub last_seen: u64,
    /// Of the pick, so that the next backend is another.
    pub hash: u64,
    /// The client's first byte, and the gateway's.
    pub client_sequence: u32,
    pub our_sequence: u32,
    /// Bytes without a hole, from the first.
    pub length: u32,
    /// Bytes of the PROXY protocol header before the first.
    pub prelude: u32,
    /// What the backend has acknowledged, and what it was sent, from the first byte of the prelude.
    pub acknowledged: u32,
    pub sent: u32,
    /// The client's last window, as it came.
    pub window: u16,
    /// Bytes that a piece may have.
    pub mss: u16,
    /// What the client's SYN offered ([`crate::cookie::Options`]).
    pub options: u8,
    /// Backends tried, and SYNs sent to the present one.
    pub attempts: u8,
    pub syns: u8,
    /// The scale of the backend's windows.
    pub scale: u8,
    /// Beyond the first hole; unset ones have end 0.
    pub islands: [Island; 4],
    /// The backend set that the name led to.
    pub backend_set: u32,
    /// What the backend's window allows to send, from the first byte of the prelude.
    pub edge: u32,
    /// What the client has acknowledged of the backend, in the backend's numbers.
    pub heard: u32,
    /// The backend's MSS as it said it; what is sent may be smaller.
    pub limit: u32,
    /// Coarse monotonic time of the last SYN or piece sent, ns.
    pub sent_at: u64,
    /// 1: a CPU is reading or binding it; what comes on another one meanwhile is dropped, and comes again.
    pub busy: u64,
    /// The index of this slot.
    pub slot: u32,
    pub _pad: u32,
    /// The PROXY protocol header ends where the hello starts.
    pub proxy: [u8; PROXY_BYTES],
    pub bytes: [u8; HELLO_BYTES],
    /// Never filled: pieces of so many bytes are copied, and the verifier sees only where they start.
    pub slack: [u8; HELLO_PIECE],
}

/// COOKIE_KEY: the only element (index 0), random bits that the agent writes before the first TLS listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CookieKey {
    pub words: [u64; 2],
}

/// BACKEND_SETS: value. Where the set's Maglev table lies in SLOTS. Replaced by one 8-byte write.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendSet {
    pub offset: u32,
    /// Slots of the table; 0: an empty set.
    pub length: u16,
    /// Slots of the nested table that follows the table at once; 0: there is none.
    pub nested: u16,
}

/// SLOTS: values that are no backend id. Ids stay below all of them.
pub mod slot {
    /// Pick again in the nested table: the remainders of weights finer than a slot.
    pub const NESTED: u32 = 0xffff_ffff;
    /// The share of an invalid backendRef.
    pub const INVALID: u32 = 0xffff_fffe;
    /// The share of a backendRef without a ready endpoint.
    pub const EMPTY: u32 = 0xffff_fffd;
    /// Backend ids are below this.
    pub const FIRST_SPECIAL: u32 = 0xffff_fff0;
}

/// BACKENDS: value; the key is the backend id (u32). An id is index into BACKEND_COUNTERS.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub address: Address,
    /// The node's own address towards this backend (of the same family): the source of what is sent to a backend that is
    /// not LOCAL, and to a LOCAL one that is its own client. Unset: the backend cannot be reached (NoRoute).
    pub source: Address,
    pub port: u16,
    /// Of [`backend_flags`].
    pub flags: u8,
    /// [`protocol`]: a backend id belongs to one protocol.
    pub protocol: u8,
    /// The host end of the pod's veth pair, if `bpf_redirect_peer` may be used; 0: none.
    pub ifindex: u32,
}

pub mod backend_flags {
    /// The backend runs on this node: it sees the client's address.
    pub const LOCAL: u8 = 1;
    /// A socket of the agent ([`super::agent_backend`]).
    pub const AGENT: u8 = 2;
    /// It wants a PROXY protocol v2 header before the ClientHello.
    pub const PROXY: u8 = 4;
}

/// FLOWS and EMBRYONIC: key, the 5-tuple as it is seen on the wire before the rewrite.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub _pad: [u8; 3],
}

/// States of a flow; both halves carry the same.
pub mod flow_state {
    /// In EMBRYONIC: the client has not confirmed it yet.
    pub const NEW: u8 = 1;
    /// In FLOWS.
    pub const ESTABLISHED: u8 = 2;
    /// In FLOWS: TCP, one direction has sent FIN.
    pub const HALF_CLOSED: u8 = 3;
    /// In EMBRYONIC again: TCP, both directions have sent FIN.
    pub const CLOSED: u8 = 4;
    /// In EMBRYONIC again: TCP, a RST went through. Whoever goes on sending on the half that it came on brings the flow
    /// back: a forged RST that the ends ignore harms nobody.
    pub const RESET: u8 = 5;
    /// In FLOWS: the endpoint has gone; the next packet is answered with RST.
    pub const GONE: u8 = 6;
    /// In FLOWS: spliced; the backend has not answered the SYN yet.
    pub const CONNECTING: u8 = 7;
    /// In FLOWS: spliced; the backend has not acknowledged the whole ClientHello yet.
    pub const REPLAYING: u8 = 8;
}

pub mod flow_flags {
    /// The half from the backend to the client.
    pub const REPLY: u8 = 1;
    /// The backend runs on this node (forward half: `bpf_redirect_peer` may be used).
    pub const LOCAL: u8 = 2;
    /// The backend has answered.
    pub const REPLIED: u8 = 4;
    /// FIN seen on this half.
    pub const FIN: u8 = 8;
    /// RST seen on this half.
    pub const RST: u8 = 16;
    /// Two connections made one: sequence numbers and windows are translated.
    pub const SPLICED: u8 = 32;
    /// Spliced to the agent.
    pub const AGENT: u8 = 64;
}

/// The way out of a flow half, looked up in the FIB and kept for a second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Coarse monotonic time of the lookup, ns; 0: never.
    pub checked: u64,
    pub ifindex: u32,
    /// Of the way out, bytes of the IP packet.
    pub mtu: u16,
    /// One of [`route_kind`].
    pub kind: u8,
    pub _pad: u8,
    /// Destination then source MAC address.
    pub macs: [u8; 12],
    pub _pad2: [u8; 4],
}

pub mod route_kind {
    /// `bpf_redirect_neigh`: the kernel resolves the neighbour.
    pub const NEIGHBOUR: u8 = 1;
    /// `bpf_redirect` with the MAC addresses kept here.
    pub const DIRECT: u8 = 2;
    /// `bpf_redirect_peer` into the pod.
    pub const PEER: u8 = 3;
}

/// FLOWS and EMBRYONIC: value, what the packet becomes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub backend: u32,
    pub listener: u32,
    /// One of [`flow_state`].
    pub state: u8,
    /// Of [`flow_flags`].
    pub flags: u8,
    /// Spliced: how many bits the window field of a segment is shifted to the left (negative: to the right).
    pub window_shift: i8,
    pub _pad: u8,
    /// TCP, forward half in state NEW: the acknowledgement number that proves the client saw the SYN-ACK. CONNECTING and
    /// REPLAYING: index in HELLOS. Spliced and established, forward half: the backend's MSS, 0: no
    /// limit.
    pub handshake: u32,
    /// Spliced: what is added to sequence numbers of the backend, and taken from the client's acknowledgements of them.
    pub delta: u32,
    /// Coarse monotonic time of the last packet of this half, ns.
    pub last_seen: u64,
    pub packets: u64,
    /// Of IP packets, headers included.
    pub bytes: u64,
    pub route: Route,
}

/// FRAGMENTS: key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    pub source: Address,
    pub destination: Address,
    /// IPv4 has 16 bits of it.
    pub id: u32,
    pub protocol: u8,
    pub _pad: [u8; 3],
}

/// Values of [`FragmentKey::protocol`] and of [`FragmentTrack::flow`]'s protocol that are no protocol.
pub mod fragment_protocol {
    /// FRAGMENTS: key (with id 0): datagrams from this source to this destination are answers to a flow of Sluice's.
    pub const ANSWERS: u8 = 255;
    /// FRAGMENTS: value: the first fragment was not for Sluice.
    pub const FOREIGN: u8 = 255;
}

/// FRAGMENTS: value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentTrack {
    /// The flow of the datagram, known once its first fragment has come (protocol 0: not yet).
    pub flow: FlowKey,
    /// How many later fragments wait in HELD.
    pub held: u32,
    /// Coarse monotonic time of the first fragment that came, s. Ids come round again.
    pub since: u32,
}

/// INTERFACES: value; the key is the ifindex (u32) of an interface that has a program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// XDP cannot see otherwise whether a frame is for this host or only came by.
    pub mac: [u8; 6],
    pub _pad: [u8; 2],
    /// The interface's own address, IPv4 and IPv6: the source of what the node says as a router (RFC 1812 section 4.3.2.4).
    /// Unset: such errors have the source that the packet was sent to.
    pub v4: Address,
    pub v6: Address,
}

/// ANNOUNCED: value; the key is an [`Address`] that Gateways have of a pool, for which one node answers ARP and Neighbor Discovery.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// MAC address of another machine that has said since that the address is its own, as it lies in memory; then this node does not
    /// answer. Unset: nobody.
    pub rival: [u16; 3],
    /// 1: this node answers; 0: another does.
    pub held: u16,
}

/// HELD: key, a fragment that came before the first one of its datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeldKey {
    pub datagram: FragmentKey,
    pub index: u32,
    pub _pad: u32,
}

/// A receiver gives up a datagram that is not whole after 60 s at the latest (RFC 8200 section 4.5); Linux after 30 s.
pub const FRAGMENT_SECONDS: u32 = 30;
/// Most fragments held for one datagram.
pub const HELD_PER_DATAGRAM: u32 = 8;
/// Largest fragment held, bytes of the frame.
pub const HELD_BYTES: usize = 1536;

/// HELD: value, the frame as it came.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct HeldFragment {
    pub length: u32,
    pub _pad: u32,
    pub frame: [u8; HELD_BYTES],
}

/// CONFIG: the only element (index 0). Times in ns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// TCP flows whose client has not confirmed.
    pub tcp_new: u64,
    pub tcp_established: u64,
    /// One direction has sent FIN.
    pub tcp_half_closed: u64,
    /// Both have, or a RST went through.
    pub tcp_closed: u64,
    /// UDP flows of one packet, or without an answer.
    pub udp_new: u64,
    pub udp_established: u64,
    /// 1: write to EVENTS.
    pub events: u32,
    /// Entries of HELLOS.
    pub hellos: u32,
    /// The first of the ports that the agent takes connections on, of this agent process and of the one before; 0: none.
    pub agent_ports: [u16; 2],
    /// Elements of AGENT_SOCKETS that have a socket; 0: connections to L7 listeners are refused.
    pub workers: u32,
}

impl Config {
    /// Whether a connection from this port may be one of the agent's.
    #[inline(always)]
    pub fn is_of_agent(&self, port: u16) -> bool {
        let [present, before] = self.agent_ports;
        port.wrapping_sub(present) < agent_backend::PORTS || port.wrapping_sub(before) < agent_backend::PORTS
    }
}

impl Default for Config {
    /// RFC 5382 REQ-5 (established at least 2 h 4 min, transitory at least 4 min), RFC 4787 REQ-5 (UDP at least 2 min).
    fn default() -> Self {
        const S: u64 = 1_000_000_000;
        Config {
            tcp_new: 30 * S,
            tcp_established: 7_500 * S,
            tcp_half_closed: 300 * S,
            tcp_closed: 60 * S,
            udp_new: 30 * S,
            udp_established: 180 * S,
            events: 0,
            hellos: sizes::HELLOS as u32,
            agent_ports: [0; 2],
            workers: 0,
        }
    }
}

/// LISTENER_COUNTERS and BACKEND_COUNTERS: per-CPU value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// New flows that got a backend.
    pub picked: u64,
    /// Of these, the ones that moved to FLOWS.
    pub established: u64,
    /// Of these, the ones that left FLOWS.
    pub closed: u64,
    /// New flows that were refused (listeners only; the reason is counted in DROPS).
    pub refused: u64,
    pub packets_in: u64,
    /// From the client, bytes of IP packets.
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
}

pub mod event_kind {
    pub const OPENED: u8 = 1;
    pub const CLOSED: u8 = 2;
    pub const REFUSED: u8 = 3;
    /// A spliced connection goes to another backend: the one in the record did not answer.
    pub const RETRIED: u8 = 4;
    /// A spliced connection's backend has the whole ClientHello.
    pub const DELIVERED: u8 = 5;
}

/// Bytes of [`Event::name`].
pub const EVENT_NAME: usize = 64;

/// EVENTS: record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, ns.
    pub time: u64,
    /// The client's 5-tuple towards the Gateway.
    pub client: FlowKey,
    pub listener: u32,
    /// 0: none was picked.
    pub backend: u32,
    /// One of [`event_kind`].
    pub kind: u8,
    pub _pad: [u8; 3],
    /// REFUSED: a [`crate::Reason`]; CLOSED: the [`flow_state`] it ended in.
    pub detail: u32,
    /// CLOSED: bytes of IP packets from the client and to it.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub packets: u64,
    pub _pad2: u64,
    /// OPENED and REFUSED on a TLS listener: the server name asked for, in lower case, cut to 63 bytes; the rest is 0.
    pub name: [u8; EVENT_NAME],
}

impl Default for SniName {
    fn default() -> SniName {
        SniName { backend_set: 0, listener: 0, hits: 0, mode: 0, _pad: [0; 7], name: [0; SNI_NAME] }
    }
}

impl SniKey {
    /// Of a name in lower case; of a wildcard name what follows `*.`, of the name of everybody nothing.
    pub fn new(address: Address, port: u16, wildcard: bool, name: &[u8]) -> SniKey {
        SniKey { address, hash: crate::server_name::hash(name), port, wildcard: wildcard as u8, _pad: [0; 5] }
    }
}

impl Default for Event {
    fn default() -> Event {
        Event {
            time: 0,
            client: FlowKey::default(),
            listener: 0,
            backend: 0,
            kind: 0,
            _pad: [0; 3],
            detail: 0,
            bytes_in: 0,
            bytes_out: 0,
            packets: 0,
            _pad2: 0,
            name: [0; EVENT_NAME],
        }
    }
}
