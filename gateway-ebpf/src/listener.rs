//! Stage: whose is this address and port?

use gateway_common::{Address, Listener, ListenerKey, listener_kind};

use crate::maps::LISTENERS;
use crate::parse::Packet;

#[inline(always)]
pub fn find(packet: &Packet) -> Option<&'static Listener> {
    lookup(packet.key.destination, packet.key.destination_port, packet.key.protocol)
}

/// Whether the address belongs to Gateways alone.
#[inline(always)]
pub fn is_exclusive(address: &Address) -> bool {
    lookup(*address, 0, 0).is_some_and(|listener| listener.kind == listener_kind::EXCLUSIVE)
}

/// Whether Gateways use the address.
#[inline(always)]
pub fn is_gateway(address: &Address) -> bool {
    lookup(*address, 0, 0).is_some()
}

#[inline(always)]
pub fn lookup(address: Address, port: u16, protocol: u8) -> Option<&'static Listener> {
    let key = ListenerKey { address, port, protocol, _pad: [0; 5] };
    // SAFETY: the program only reads it; the agent replaces values, whose fields are read one by one at once.
    unsafe { LISTENERS.get(&key) }
}
