//! The kernel side as the agent sees it: load, attach, pin, adopt, sweep, counters, events; interfaces and routes. Only here
//! aya is used.

mod announcer;
mod counters;
mod events;
mod features;
mod interfaces;
mod maps;
pub mod memory;
mod netlink;
mod network;
mod object;
mod origins;
mod packet;
mod pins;
mod programs;
mod raw;
mod steer;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_common::{
    Backend, BackendSet, Config, CookieKey, Flow, FlowKey, Handshake, Hello, Listener, ListenerKey, SniKey, SniName,
};
use tokio::time::sleep;

use crate::apply::{Applied, Applier, StoreError};
use crate::emit::maps::{Wanted, address};
use announcer::Announcer;
pub use counters::Counters;
pub use events::Events;
use interfaces::Interfaces;
pub use interfaces::{Interface, Options as AttachOptions, XdpMode};
pub use maps::Sizes;
use maps::{Maps, Store};
pub use netlink::Monitor;
use network::Network;
pub use origins::Origins;
use pins::PinError;
pub use pins::{Pins, Successor};
use programs::{LoadError, Programs};
pub use trace::Trace;

#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("{0}")]
    Capabilities(String),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("cannot open the pinned maps: {0}")]
    Maps(io::Error),
    #[error("cannot ask the kernel for interfaces and routes: {0}")]
    Network(io::Error),
    #[error("cannot read which addresses an earlier agent answered for: {0}")]
    Announcer(io::Error),
    #[error("cannot attach program steer to the network namespace: {0}")]
    Steer(io::Error),
    #[error("cannot read what an earlier agent left: {0}")]
    Adopt(#[from] StoreError),
}

/// How often a successor looks whether it may begin.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The programs and maps of this node, held by this process. Dropping it leaves everything attached and forwarding.
pub struct Datapath {
    pins: Pins,
    programs: Programs,
    maps: Arc<Maps>,
    network: Network,
    interfaces: Interfaces,
    applier: Applier,
    announcer: Announcer,
}

impl Datapath {
    /// Takes the pin directory, if this process may do all that comes after. Nothing else is changed yet.
    pub fn take(directory: &Path) -> Result<Pins, DatapathError> {
        if object::bytes().is_none() {
            return Err(LoadError::Stub.into());
        }
        if let Some(missing) = features::missing_capabilities().map_err(DatapathError::Maps)? {
            return Err(DatapathError::Capabilities(missing));
        }
        Ok(Pins::take(directory)?)
    }

    /// As [`Datapath::take`], after the agent that holds the pins has let them go. As long as the successor lives, that agent still takes
    /// connections.
    pub async fn take_over(directory: &Path) -> Result<(Pins, Option<Successor>), DatapathError> {
        let mut successor = None;
        loop {
            match Datapath::take(directory) {
                Err(DatapathError::Pins(held @ PinError::Held { .. })) => {
                    if successor.is_none() {
                        successor = Pins::succeed(directory)?;
                        tracing::info!("{}", held.waited_for());
                    }
                    sleep(LOOK_AGAIN).await;
                }
                Ok(pins) => {
                    // One that was to take over may have ended while it waited: the agent before waits for this one now.
                    let successor = successor.map_or_else(|| Pins::succeed(directory), |known| Ok(Some(known)))?;
                    return Ok((pins, successor));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether another agent waits to take the place of this one.
    pub fn is_awaited(&self) -> bool {
        self.pins.is_awaited()
    }

    /// Whether another agent has begun to, after this one has let go.
    pub fn is_taken(&self) -> bool {
        self.pins.is_taken()
    }

    /// It may from now on: nothing is to be written any more.
    pub fn let_go(&mut self) {
        self.pins.let_go();
    }

    /// Loads the programs, adopts what an earlier agent left, and attaches.
    pub fn open(pins: Pins, sizes: &Sizes, attach: AttachOptions) -> Result<Datapath, DatapathError> {
        for sysctl in features::forwarding_off() {
            tracing::warn!("{sysctl} is 0: the kernel forwards no packets of that family; set it to 1");
        }
        let mut programs = Programs::load(&pins, sizes)?;
        steer::attach(&mut programs, &pins).map_err(DatapathError::Steer)?;
        let maps = Arc::new(Maps::open(pins.directory(), sizes).map_err(DatapathError::Maps)?);
        make_cookie_key(&maps).map_err(DatapathError::Maps)?;
        let network = Network::new().map_err(DatapathError::Network)?;
        let applier = Applier::adopt(&mut Store(&maps))?;
        let announcer = Announcer::adopt(&maps.announced).map_err(DatapathError::Announcer)?;
        let interfaces = Interfaces::new(attach);
        let mut datapath = Datapath { pins, programs, maps, network, interfaces, applier, announcer };
        datapath.attach();
        Ok(datapath)
    }

    /// Brings the maps to what is wanted. [`Datapath::sweep`] is for the caller, after backends were removed.
    pub fn apply(&mut self, wanted: &Wanted) -> Applied {
        let Datapath { maps, network, applier, .. } = self;
        // Connections of a listener that goes end by themselves.
        network.take_locally(&wanted.answered_addresses(), |address| wanted.is_exclusive(address));
        applier.apply(wanted, |address, local| network.path(address, local), &mut Store(maps))
    }

    /// Interfaces, addresses or routes have changed. What was applied must be applied again: ways to backends may differ.
    pub fn refresh_network(&mut self) -> io::Result<()> {
        self.network.refresh()?;
        self.applier.paths_changed();
        self.attach();
        Ok(())
    }

    fn attach(&mut self) {
        let Datapath { interfaces, network, programs, pins, maps, .. } = self;
        interfaces.sync(network, programs, pins, maps);
        let external = |index: &u32| interfaces.present().get(index).is_some_and(|interface| interface.external);
        let links = network.links().iter().filter(|link| external(&link.index)).map(|link| (link.index, link.mac));
        self.announcer.set_links(links.collect(), Instant::now());
    }

    /// These are the addresses of the pool that Gateways have, and whether this node answers for them on its links.
    pub fn announce(&mut self, addresses: &BTreeMap<IpAddr, bool>) {
        self.announcer.set(addresses, &self.maps.announced, Instant::now());
    }

    /// The addresses of the pool that Gateways have, and whether this node answers for them.
    pub fn announced(&self) -> &BTreeMap<IpAddr, bool> {
        self.announcer.known()
    }

    /// When [`Datapath::announce_due`] has something to say.
    pub fn announcement(&self) -> Option<Instant> {
        self.announcer.due()
    }

    /// Says on the links where addresses now are, as often as it takes.
    pub fn announce_due(&mut self) {
        self.announcer.announce(Instant::now());
    }

    /// Addresses of this node that another machine says are its own, which this node does not answer for since; with its MAC address.
    pub fn rivals(&self) -> io::Result<Vec<(IpAddr, [u8; 6])>> {
        self.announcer.rivals(&self.maps.announced)
    }

    /// Takes such an address back.
    pub fn take_back(&mut self, address: IpAddr) {
        self.announcer.take_back(address, &self.maps.announced, Instant::now());
    }

    /// Where connections go that the agent takes itself; `None`: nowhere. The address is one of the node's; the port is the first of
    /// [`gateway_common::agent_backend::PORTS`] in a row.
    pub fn set_agent_socket(&mut self, v6: bool, socket: Option<SocketAddr>) -> Result<(), StoreError> {
        let socket = socket.map(|socket| (address(socket.ip()), socket.port()));
        self.applier.set_agent_socket(v6, socket, &mut Store(&self.maps))
    }

    /// The sockets that take connections to listeners of the kind L7, one a worker.
    pub fn steer(&self, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        steer::give(sockets, &self.maps)
    }

    /// Where the clients of the agent's sockets wanted to go.
    pub fn origins(&self) -> Origins {
        Origins(Arc::clone(&self.maps))
    }

    /// [`Config::agent_ports`] from now on: clients of the agent before may still be told something.
    pub fn agent_ports(&self, port: u16) -> io::Result<[u16; 2]> {
        let [present, before] = self.maps.config.get(&0)?.unwrap_or_default().agent_ports;
        Ok([port, if present == port { before } else { present }])
    }

    pub fn configure(&self, config: &Config) -> io::Result<()> {
        self.maps.config.put(&0, config)
    }

    /// What a debug object's programs print, if this is one.
    pub fn take_trace(&mut self) -> Option<Trace> {
        self.programs.trace.take()
    }

    /// Expires flows; says how many ended.
    pub fn sweep(&self) -> Result<u32, String> {
        self.programs.sweep()
    }

    pub fn events(&self) -> Result<Events, aya::maps::MapError> {
        Events::open(&self.pins)
    }

    pub fn counters(&self) -> Counters {
        Counters(Arc::clone(&self.maps))
    }

    /// The node's own addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        self.network.addresses()
    }

    pub fn interfaces(&self) -> &BTreeMap<u32, Interface> {
        self.interfaces.present()
    }

    pub fn applier(&self) -> &Applier {
        &self.applier
    }

    pub fn contents(&self) -> Contents {
        Contents(Arc::clone(&self.maps))
    }
}

/// Random bits, unless an earlier agent has written some: cookies that clients have stay good.
fn make_cookie_key(maps: &Maps) -> io::Result<()> {
    if maps.cookie_key.get(&0)?.is_some_and(|key| key != CookieKey::default()) {
        return Ok(());
    }
    let mut words = [0; 2];
    for word in &mut words {
        let mut bytes = [0; 8];
        // So few come all at once (getrandom(2)).
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        *word = u64::from_ne_bytes(bytes);
    }
    maps.cookie_key.put(&0, &CookieKey { words })
}

/// Reads what is in the maps, for people; may be sent to another thread.
#[derive(Clone)]
pub struct Contents(Arc<Maps>);

impl Contents {
    pub fn listeners(&self, mut each: impl FnMut(&ListenerKey, &Listener)) -> io::Result<()> {
        self.0.listeners.scan(|keys, values| keys.iter().zip(values).for_each(|(k, v)| each(k, v)))
    }

    pub fn set(&self, id: u32) -> io::Result<BackendSet> {
        Ok(self.0.sets.get(&id)?.unwrap_or_default())
    }

    /// The slots of a set, table and nested table one after the other.
    pub fn slots(&self, set: BackendSet) -> io::Result<Vec<u32>> {
        self.0.slots.read_all(set.offset, u32::from(set.length) + u32::from(set.nested))
    }

    pub fn backends(&self, mut each: impl FnMut(u32, &Backend)) -> io::Result<()> {
        self.0.backends.scan(|keys, values| keys.iter().zip(values).for_each(|(k, v)| each(*k, v)))
    }

    pub fn names(&self, mut each: impl FnMut(&SniKey, &SniName)) -> io::Result<()> {
        self.0.names.scan(|keys, values| keys.iter().zip(values).for_each(|(k, v)| each(k, v)))
    }

    pub fn name(&self, key: &SniKey) -> io::Result<Option<SniName>> {
        self.0.names.get(key)
    }

    pub fn listener(&self, key: &ListenerKey) -> io::Result<Option<Listener>> {
        self.0.listeners.get(key)
    }

    pub fn handshakes(&self, mut each: impl FnMut(&FlowKey, &Handshake)) -> io::Result<()> {
        self.0.handshakes.scan(|keys, values| keys.iter().zip(values).for_each(|(k, v)| each(k, v)))
    }

    /// Slots of HELLOS that are somebody's.
    pub fn hellos(&self, mut each: impl FnMut(u32, &Hello)) -> io::Result<()> {
        const PART: u32 = 16;
        let entries = self.0.hellos.entries();
        for from in (0..entries).step_by(PART as usize) {
            let hellos = self.0.hellos.read_all(from, PART.min(entries - from))?;
            let used = (from..).zip(&hellos).filter(|(_, hello)| hello.client.protocol != 0);
            used.for_each(|(slot, hello)| each(slot, hello));
        }
        Ok(())
    }

    /// Flows of FLOWS and EMBRYONIC, both halves.
    pub fn flows(&self, mut each: impl FnMut(&FlowKey, &Flow)) -> io::Result<()> {
        self.0.flows.scan(|keys, values| keys.iter().zip(values).for_each(|(k, v)| each(k, v)))?;
        self.0.embryonic.scan(|keys, values| keys.iter().zip(values).for_each(|(k, v)| each(k, v)))
    }
}

/// What [`uninstall`] removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    pub pins: usize,
    pub filters: usize,
}

/// Detaches and unpins everything that an agent with this pin directory ever attached or pinned.
pub fn uninstall(directory: &Path) -> Result<Removed, DatapathError> {
    if let Some(missing) = features::missing_capabilities().map_err(DatapathError::Maps)? {
        return Err(DatapathError::Capabilities(missing));
    }
    let pins = Pins::take_existing(directory)?;
    let mut network = Network::new().map_err(DatapathError::Network)?;
    network.take_locally(&BTreeSet::new(), |_| false);
    let filters = interfaces::detach_filters(&network);
    let pins = pins.map_or(Ok(0), Pins::remove_all)?;
    Ok(Removed { pins, filters })
}
