//! What only TLS listeners use.

use std::net::SocketAddr;

use anyhow::Result;
use aya::maps::{Array, HashMap};
use gateway_common::{
    Collecting, CookieKey, FlowKey, Handshake, Hello, Listener, ListenerKey, SniKey, SniName, listener_kind, names,
    protocol, server_name, sizes,
};

use super::Lab;
use crate::net::map_address;

impl Lab {
    // What the agent would write.

    /// Adds a TLS listener and returns its id. `wildcards` and `mtu` as in [`Listener`].
    pub fn tls_listener(&mut self, at: SocketAddr, wildcards: u32, mtu: u16) -> Result<u32> {
        self.listeners += 1;
        self.put_tls_listener(at, self.listeners, wildcards, mtu)?;
        Ok(self.listeners)
    }

    /// Replaces a TLS listener.
    pub fn put_tls_listener(&mut self, at: SocketAddr, id: u32, wildcards: u32, mtu: u16) -> Result<()> {
        let key = ListenerKey {
            address: map_address(at.ip()),
            port: at.port(),
            protocol: protocol::TCP,
            ..ListenerKey::default()
        };
        self.tls = true;
        let value = Listener { kind: listener_kind::TLS, mtu, id, wildcards, ..Listener::default() };
        Ok(self.hash_mut(names::LISTENERS)?.insert(key, value, 0)?)
    }

    /// Another id for the counters of what has a server name.
    pub fn listener_id(&mut self) -> u32 {
        self.listeners += 1;
        self.listeners
    }

    /// Says who takes a server name: exact, `*.` and the rest of it, or `*` for everybody.
    pub fn server_name(&mut self, at: SocketAddr, name: &str, value: SniName) -> Result<()> {
        let mut value = value;
        value.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(self.hash_mut(names::SNI)?.insert(sni_key(at, name), value, 0)?)
    }

    pub fn server_name_entry(&mut self, at: SocketAddr, name: &str) -> Result<SniName> {
        Ok(self.hash_mut::<SniKey, SniName>(names::SNI)?.get(&sni_key(at, name), 0)?)
    }

    pub fn cookie_key(&mut self, key: CookieKey) -> Result<()> {
        Ok(self.array_mut(names::COOKIE_KEY)?.set(0, key, 0)?)
    }

    // What the programs wrote.

    pub fn handshakes(&mut self) -> Result<Vec<(FlowKey, Handshake)>> {
        let map: HashMap<_, FlowKey, Handshake> = self.hash_mut(names::HANDSHAKES)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    /// Clients of whose hello a part has come, with their slots.
    pub fn collecting(&mut self) -> Result<Vec<(FlowKey, Collecting)>> {
        let map: HashMap<_, FlowKey, Collecting> = self.hash_mut(names::COLLECTING)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    pub fn handshake(&mut self, client: &FlowKey) -> Result<Option<Handshake>> {
        Ok(self.handshakes()?.into_iter().find(|(key, _)| key == client).map(|(_, handshake)| handshake))
    }

    /// The slot that a client's hello is in.
    pub fn hello(&mut self, client: &FlowKey) -> Result<Option<(u32, Hello)>> {
        for slot in 1..sizes::HELLOS as u32 {
            let hello = self.hello_at(slot)?;
            if hello.client == *client {
                return Ok(Some((slot, hello)));
            }
        }
        Ok(None)
    }

    pub fn hello_at(&mut self, slot: u32) -> Result<Hello> {
        Ok(self.array_mut::<Hello>(names::HELLOS)?.get(&slot, 0)?)
    }

    pub fn put_hello(&mut self, slot: u32, hello: Hello) -> Result<()> {
        Ok(self.array_mut(names::HELLOS)?.set(slot, hello, 0)?)
    }

    pub(super) fn forget_hellos(&mut self) -> Result<()> {
        let mut hellos: Array<_, Hello> = self.array_mut(names::HELLOS)?;
        for slot in 0..sizes::HELLOS as u32 {
            let mut hello = hellos.get(&slot, 0)?;
            if hello.client != FlowKey::default() {
                hello.client = FlowKey::default();
                hello.last_seen = 0;
                hellos.set(slot, hello, 0)?;
            }
        }
        Ok(())
    }
}

fn sni_key(at: SocketAddr, name: &str) -> SniKey {
    let address = map_address(at.ip());
    match name.strip_prefix('*') {
        Some(rest) => SniKey::new(address, at.port(), true, rest.trim_start_matches('.').as_bytes()),
        None => SniKey::new(address, at.port(), false, name.as_bytes()),
    }
}

/// The bit of [`Listener::wildcards`] for a name with an asterisk.
pub fn wildcard_bit(name: &str) -> u32 {
    let rest = name.strip_prefix('*').expect("a wildcard name");
    server_name::wildcard_bit(rest.matches('.').count() as u32)
}
