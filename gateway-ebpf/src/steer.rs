//! Connections that the agent takes from the node's own stack: which of its sockets gets one (`steer`), and which packets are of one.

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, BPF_SK_LOOKUP_F_NO_REUSEPORT, bpf_sk_lookup, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Tuple4, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Tuple6,
    sk_action,
};
use aya_ebpf::helpers::{bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::SkLookupContext;
use gateway_common::{FlowKey, hash, listener_kind, protocol};

use crate::frame::Frame;
use crate::headers::{ACK, SYN};
use crate::listener;
use crate::maps::{AGENT_SOCKETS, CONFIG};
use crate::parse::{Packet, address_v6, mapped, unmapped, words_v6};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// `BPF_TCP_LISTEN` of linux/bpf.h.
const LISTEN: u32 = 10;

/// Runs for a SYN (or the last of a handshake by SYN cookie) that is in no connection of the node's. A worker's connections come to one
/// socket of its own; which worker is decided by the client, so that both segments of a handshake find the same.
#[inline(always)]
pub fn run(context: &SkLookupContext) -> u32 {
    let Some(key) = key(context.lookup) else { return sk_action::SK_PASS };
    let listener = listener::lookup(key.destination, key.destination_port, protocol::TCP);
    if listener.is_none_or(|listener| listener.kind != listener_kind::L7) {
        return sk_action::SK_PASS;
    }
    let workers = CONFIG.get(0).map_or(0, |config| config.workers);
    let worker = hash::reduce(hash::flow(&key) as u32, workers);
    // What else listens on all addresses of the node is not meant.
    match AGENT_SOCKETS.redirect_sk_lookup(context, worker, BPF_SK_LOOKUP_F_NO_REUSEPORT as u64) {
        Ok(()) => sk_action::SK_PASS,
        Err(_) => sk_action::SK_DROP,
    }
}

/// The 5-tuple of a TCP connection.
#[inline(always)]
fn key(lookup: *const bpf_sk_lookup) -> Option<FlowKey> {
    // The verifier takes loads of the context one by one only.
    macro_rules! field {
        ($($field:tt)+) => {
            // SAFETY: the context is valid.
            unsafe { core::ptr::read_volatile(&raw const (*lookup).$($field)+) }
        };
    }
    if field!(protocol) != protocol::TCP as u32 {
        return None;
    }
    let (source, destination) = match field!(family) {
        AF_INET => (mapped(field!(remote_ip4)), mapped(field!(local_ip4))),
        AF_INET6 => {
            let remote = [field!(remote_ip6[0]), field!(remote_ip6[1]), field!(remote_ip6[2]), field!(remote_ip6[3])];
            let local = [field!(local_ip6[0]), field!(local_ip6[1]), field!(local_ip6[2]), field!(local_ip6[3])];
            (address_v6(&remote), address_v6(&local))
        }
        _ => return None,
    };
    Some(FlowKey {
        source,
        destination,
        source_port: u16::from_be(field!(remote_port)),
        destination_port: field!(local_port) as u16,
        protocol: protocol::TCP,
        _pad: [0; 3],
    })
}

/// Whether a packet without a flow belongs to a TCP connection of the node's own stack: a listener that goes or becomes another kind
/// leaves such behind.
#[inline(always)]
pub fn has_socket<F: Frame>(frame: F, packet: &Packet) -> bool {
    packet.is_tcp() && packet.flags & (SYN | ACK) != SYN && find(frame, packet) != 0
}

#[inline(never)]
fn find<F: Frame>(frame: F, packet: &Packet) -> u32 {
    let key = &packet.key;
    let (sport, dport) = (key.source_port.to_be(), key.destination_port.to_be());
    let mut tuple = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv6: Tuple6 { saddr: words_v6(&key.source), daddr: words_v6(&key.destination), sport, dport },
        },
    };
    let mut size = size_of::<Tuple6>() as u32;
    if !packet.v6 {
        tuple.__bindgen_anon_1.ipv4 =
            Tuple4 { saddr: unmapped(&key.source), daddr: unmapped(&key.destination), sport, dport };
        size = size_of::<Tuple4>() as u32;
    }
    // SAFETY: the context is valid, the tuple is as long as is said, and what is found is released.
    unsafe {
        let socket = bpf_skc_lookup_tcp(frame.context(), &mut tuple, size, BPF_F_CURRENT_NETNS as u64, 0);
        if socket.is_null() {
            return 0;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        (state != LISTEN) as u32
    }
}
