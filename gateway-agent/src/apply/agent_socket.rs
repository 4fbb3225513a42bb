//! The agent's own sockets: backends with ids of their own, which no listener has.

use gateway_common::{Address, Backend, agent_backend, backend_flags, protocol};

use super::{Applier, MapStore, StoreError};

impl Applier {
    /// Where connections go that the agent takes itself, `None`: nowhere. The address is one of the node; the port is the first of
    /// [`agent_backend::PORTS`].
    pub fn set_agent_socket(
        &mut self,
        v6: bool,
        socket: Option<(Address, u16)>,
        store: &mut dyn MapStore,
    ) -> Result<(), StoreError> {
        let id = if v6 { agent_backend::V6 } else { agent_backend::V4 };
        let value = socket.map(|(address, port)| Backend {
            address,
            source: address,
            port,
            flags: backend_flags::AGENT,
            protocol: protocol::TCP,
            ifindex: 0,
        });
        let present = &mut self.agent_sockets[usize::from(v6)];
        match value {
            value if value == *present => {}
            Some(value) => {
                if present.is_none() {
                    store.reset_backend_counters(id)?;
                }
                store.put_backend(id, value)?;
            }
            None => store.remove_backend(id)?,
        }
        *present = value;
        // Whoever had the id before has lost it.
        self.stray_backends.retain(|stray| *stray != id || value.is_none());
        Ok(())
    }

    /// Ids of the agent's sockets that are in the maps, with what they are.
    pub fn agent_sockets(&self) -> impl Iterator<Item = (u32, &Backend)> {
        (agent_backend::V4..).zip(&self.agent_sockets).filter_map(|(id, socket)| Some((id, socket.as_ref()?)))
    }
}
