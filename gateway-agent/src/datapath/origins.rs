//! Where the client of a connection that was spliced to the agent wanted to go.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use gateway_common::{FlowKey, protocol};

use super::maps::Maps;
use crate::emit::maps::{address, ip};

/// Looks flows up; may be sent to other threads.
#[derive(Clone)]
pub struct Origins(pub(super) Arc<Maps>);

impl Origins {
    /// The address and port of the Gateway, for the addresses of an accepted connection; `None`: it was not spliced, or has ended.
    pub fn gateway(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<SocketAddr>> {
        // Answers come from the socket, and leave as from the Gateway.
        let answers = FlowKey {
            source: address(local.ip().to_canonical()),
            destination: address(peer.ip().to_canonical()),
            source_port: local.port(),
            destination_port: peer.port(),
            protocol: protocol::TCP,
            _pad: [0; 3],
        };
        let flow = match self.0.flows.get(&answers)? {
            Some(flow) => Some(flow),
            None => self.0.embryonic.get(&answers)?,
        };
        Ok(flow.map(|flow| SocketAddr::new(ip(flow.source), flow.source_port)))
    }
}
