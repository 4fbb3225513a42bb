//! The object under test, loaded in a namespace of its own, and the maps filled and read directly.

// The fuzz targets name this file by its path.
#[path = "lab/at_once.rs"]
mod at_once;
#[path = "lab/tls.rs"]
mod tls;

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, RingBuf, xdp::DevMapHash};
use aya::programs::tc::SchedClassifierLink;
use aya::programs::{Program, SchedClassifier, TcAttachType, TestRun, TestRunOptions, TestRunResult, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};
use gateway_common::{
    Address, Announced, Backend, BackendSet, Collecting, Config, CookieKey, Counter, Event, Flow, FlowKey, FragmentKey,
    FragmentTrack, Handshake, HeldKey, Interface, Listener, ListenerKey, Reason, SniKey, SniName, listener_kind, names,
    protocol, reason::REASONS,
};

pub use tls::wildcard_bit;

use crate::net::{self, Port, Version, map_address};
use crate::outcome::{Hook, Outcome};
use crate::wire::Wire;

/// What all tests of this process have provoked.
pub static PROVOKED: Mutex<BTreeSet<Reason>> = Mutex::new(BTreeSet::new());

/// Where the object is that the tests run.
pub const OBJECT_VARIABLE: &str = "SLUICE_EBPF_OBJECT";

/// Largest frame a test looks at.
const FRAME: usize = 16_384;

pub struct Lab {
    ebpf: Ebpf,
    ports: [u32; 3],
    drops: [u64; REASONS],
    listeners: u32,
    slots: u32,
    sets: u32,
    /// Detached when dropped.
    links: Vec<SchedClassifierLink>,
    /// The far ends, while a test looks at what the programs send beside the frame in hand.
    wires: Vec<Wire>,
    /// Whether a test had a TLS listener: then HELLOS may be in use.
    tls: bool,
}

/// Any will do; a test that changes it shows what a change does.
pub const COOKIE_KEY: CookieKey = CookieKey { words: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210] };

/// Where a flow was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Flows,
    Embryonic,
}

impl Lab {
    /// Loads the object. The calling thread must be in a namespace made by [`net::enter`].
    pub fn new() -> Result<Lab> {
        let mut lab = Lab::with_sizes(&[])?;
        // BPF_PROG_TEST_RUN for XDP needs receive queues that are registered, which veth does for a program only.
        for port in Port::ALL {
            // And a veth end only takes frames of XDP_TX and XDP_REDIRECT if it has a program itself.
            for name in [port.name().to_string(), format!("{}p", port.name())] {
                lab.xdp_program()?
                    .attach(&name, XdpMode::Driver)
                    .with_context(|| format!("cannot attach ingress_xdp to {name}"))?;
            }
        }
        Ok(lab)
    }

    /// A second copy of the object in the same namespace, with other map sizes.
    pub fn with_sizes(sizes: &[(&str, u32)]) -> Result<Lab> {
        let object = object()?;
        let mut loader = EbpfLoader::new();
        for (name, entries) in sizes {
            loader.map_max_entries(name, *entries);
        }
        let mut ebpf = loader.load(&object).context("the kernel does not take the eBPF object")?;
        for name in ["ingress_tc", "ingress_xdp", "egress_tc", "sweep"] {
            match ebpf.program_mut(name).with_context(|| format!("the eBPF object has no program {name}"))? {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                other => bail!("{name} is a {:?} program", other.prog_type()),
            }
            .with_context(|| format!("the verifier refuses {name}"))?;
        }
        let ports = [net::ifindex("ext0")?, net::ifindex("ext1")?, net::ifindex("pod0")?];
        let mut lab = Lab {
            ebpf,
            ports,
            drops: [0; REASONS],
            listeners: 0,
            slots: 0,
            sets: 0,
            links: Vec::new(),
            wires: Vec::new(),
            tls: true,
        };
        lab.reset()?;
        Ok(lab)
    }

    /// Empties the maps and forgets what was counted.
    pub fn reset(&mut self) -> Result<()> {
        self.links.clear();
        self.wires.clear();
        self.clear::<ListenerKey, Listener>(names::LISTENERS)?;
        self.clear::<u32, Backend>(names::BACKENDS)?;
        self.clear::<Address, Announced>(names::ANNOUNCED)?;
        self.clear::<FlowKey, Flow>(names::FLOWS)?;
        self.clear::<FlowKey, Flow>(names::EMBRYONIC)?;
        self.clear::<FragmentKey, FragmentTrack>(names::FRAGMENTS)?;
        let mut held: HashMap<_, HeldKey, gateway_common::HeldFragment> = self.map_mut(names::HELD)?;
        for key in held.keys().collect::<Result<Vec<_>, _>>()? {
            held.remove(&key)?;
        }
        self.clear::<SniKey, SniName>(names::SNI)?;
        self.clear::<FlowKey, Handshake>(names::HANDSHAKES)?;
        self.clear::<FlowKey, Collecting>(names::COLLECTING)?;
        if std::mem::take(&mut self.tls) {
            self.forget_hellos()?;
        }
        self.cookie_key(COOKIE_KEY)?;
        for set in 0..=self.sets {
            self.array_mut(names::BACKEND_SETS)?.set(set, BackendSet::default(), 0)?;
        }
        let zero = || PerCpuValues::try_from(vec![Counter::default(); cpus()?]).map_err(anyhow::Error::from);
        for id in 0..=self.listeners {
            self.per_cpu_mut(names::LISTENER_COUNTERS)?.set(id, zero()?, 0)?;
        }
        for id in 0..64 {
            self.per_cpu_mut(names::BACKEND_COUNTERS)?.set(id, zero()?, 0)?;
        }
        // The programs' own: a bucket that is filled anew when it was filled long ago.
        let mut bucket: PerCpuArray<_, [u64; 2]> = self.map_mut("ICMP_BUCKET")?;
        bucket.set(0, PerCpuValues::try_from(vec![[0; 2]; cpus()?])?, 0)?;
        (self.listeners, self.slots, self.sets) = (0, 0, 0);
        self.configure(Config::default())?;
        self.xdp_ports(&[])?;
        self.interfaces(&Port::ALL)?;
        self.events()?;
        self.drops = self.read_drops()?;
        Ok(())
    }

    // What the agent would write.

    pub fn configure(&mut self, config: Config) -> Result<()> {
        Ok(self.array_mut(names::CONFIG)?.set(0, config, 0)?)
    }

    /// Interfaces that take XDP_REDIRECT.
    pub fn xdp_ports(&mut self, ports: &[Port]) -> Result<()> {
        let indexes = self.ports;
        let mut map: DevMapHash<&mut MapData> = self.map_mut(names::XDP_PORTS)?;
        for port in Port::ALL {
            let index = indexes[port as usize];
            if ports.contains(&port) {
                map.insert(index, index, None, 0)?;
            } else if map.get(index, 0).is_ok() {
                map.remove(index)?;
            }
        }
        Ok(())
    }

    /// Interfaces with `ingress_xdp`.
    pub fn interfaces(&mut self, ports: &[Port]) -> Result<()> {
        self.clear::<u32, Interface>(names::INTERFACES)?;
        for port in ports {
            let index = self.index(*port);
            let own = |version| port.address(version).map_or(Address::UNSET, map_address);
            let value =
                Interface { mac: port.mac(), v4: own(Version::V4), v6: own(Version::V6), ..Interface::default() };
            self.hash_mut(names::INTERFACES)?.insert(index, value, 0)?;
        }
        Ok(())
    }

    /// Adds a listener and returns its id.
    pub fn listener(&mut self, at: SocketAddr, protocol: u8, backend_set: u32) -> Result<u32> {
        self.listeners += 1;
        let key = ListenerKey { address: map_address(at.ip()), port: at.port(), protocol, ..ListenerKey::default() };
        let value = Listener { kind: listener_kind::L4, id: self.listeners, backend_set, ..Listener::default() };
        self.hash_mut(names::LISTENERS)?.insert(key, value, 0)?;
        Ok(self.listeners)
    }

    /// Adds a listener that the agent answers.
    pub fn answered_listener(&mut self, at: SocketAddr) -> Result<()> {
        self.listeners += 1;
        let (address, port) = (map_address(at.ip()), at.port());
        let key = ListenerKey { address, port, protocol: protocol::TCP, ..ListenerKey::default() };
        let value = Listener { kind: listener_kind::L7, id: self.listeners, ..Listener::default() };
        Ok(self.hash_mut(names::LISTENERS)?.insert(key, value, 0)?)
    }

    /// Declares that an address belongs to Gateways alone.
    pub fn exclusive(&mut self, address: IpAddr) -> Result<()> {
        self.address(address, listener_kind::EXCLUSIVE)
    }

    /// Declares that Gateways share an address with the node.
    pub fn shared(&mut self, address: IpAddr) -> Result<()> {
        self.address(address, listener_kind::SHARED)
    }

    fn address(&mut self, address: IpAddr, kind: u8) -> Result<()> {
        let key = ListenerKey { address: map_address(address), ..ListenerKey::default() };
        let value = Listener { kind, ..Listener::default() };
        Ok(self.hash_mut(names::LISTENERS)?.insert(key, value, 0)?)
    }

    /// Declares that a node answers for an address on its links, this one or another.
    pub fn announced(&mut self, address: IpAddr, held: bool) -> Result<()> {
        let value = Announced { held: held.into(), ..Announced::default() };
        Ok(self.hash_mut(names::ANNOUNCED)?.insert(map_address(address), value, 0)?)
    }

    /// The machine that has said that such an address is its own.
    pub fn rival(&mut self, address: IpAddr) -> Result<[u8; 6]> {
        let value: Announced = self.hash_mut(names::ANNOUNCED)?.get(&map_address(address), 0)?;
        let [[a, b], [c, d], [e, f]] = value.rival.map(u16::to_ne_bytes);
        Ok([a, b, c, d, e, f])
    }

    pub fn backend(&mut self, id: u32, backend: Backend) -> Result<()> {
        Ok(self.hash_mut(names::BACKENDS)?.insert(id, backend, 0)?)
    }

    pub fn remove_backend(&mut self, id: u32) -> Result<()> {
        Ok(self.hash_mut::<u32, Backend>(names::BACKENDS)?.remove(&id)?)
    }

    /// Adds a set with the table and nested table given and returns its id.
    pub fn set(&mut self, table: &[u32], nested: &[u32]) -> Result<u32> {
        self.sets += 1;
        let (id, offset) = (self.sets, self.slots);
        self.replace_set(id, table, nested)?;
        debug_assert!(self.slots > offset || table.is_empty());
        Ok(id)
    }

    /// Gives a set another table, as the agent does: new slots first, then one write.
    pub fn replace_set(&mut self, id: u32, table: &[u32], nested: &[u32]) -> Result<()> {
        let set = BackendSet { offset: self.slots, length: table.len() as u16, nested: nested.len() as u16 };
        let mut slots = self.array_mut::<u32>(names::SLOTS)?;
        for (i, slot) in table.iter().chain(nested).enumerate() {
            slots.set(set.offset + i as u32, slot, 0)?;
        }
        self.slots += (table.len() + nested.len()) as u32;
        Ok(self.array_mut(names::BACKEND_SETS)?.set(id, set, 0)?)
    }

    // Packets.

    /// Runs `ingress_tc` on a frame that arrives at a port.
    pub fn tc(&mut self, port: Port, frame: &[u8]) -> Result<Outcome> {
        self.tc_segmented(port, frame, 0)
    }

    /// The same with an skb that GRO merged from segments of so many bytes of payload.
    pub fn tc_segmented(&mut self, port: Port, frame: &[u8], gso_size: u32) -> Result<Outcome> {
        let index = self.index(port);
        // struct __sk_buff, include/uapi/linux/bpf.h: ingress_ifindex, ifindex, gso_segs, gso_size.
        let segments = if gso_size == 0 { 0 } else { (frame.len() as u32).div_ceil(gso_size) };
        let context = words(192, &[(36, index), (40, index), (164, segments), (176, gso_size)]);
        let program: &SchedClassifier = self.ebpf.program("ingress_tc").context("no ingress_tc")?.try_into()?;
        let (verdict, out) = run(program, frame, &context)?;
        self.outcome(Hook::Tc, port, verdict, frame, out)
    }

    /// Runs `egress_tc` on a frame that a socket of the node sends out of a port.
    pub fn egress(&mut self, port: Port, frame: &[u8]) -> Result<Outcome> {
        let index = self.index(port);
        let context = words(192, &[(40, index)]);
        let program: &SchedClassifier = self.ebpf.program("egress_tc").context("no egress_tc")?.try_into()?;
        let (verdict, out) = run(program, frame, &context)?;
        self.outcome(Hook::Egress, port, verdict, frame, out)
    }

    /// Runs `ingress_xdp` on a frame that arrives at a port.
    pub fn xdp(&mut self, port: Port, frame: &[u8]) -> Result<Outcome> {
        // struct xdp_md: data_end, ingress_ifindex.
        let context = words(24, &[(4, frame.len() as u32), (12, self.index(port))]);
        let program: &Xdp = self.ebpf.program("ingress_xdp").context("no ingress_xdp")?.try_into()?;
        let (verdict, out) = run(program, frame, &context)?;
        self.outcome(Hook::Xdp, port, verdict, frame, out)
    }

    pub fn run(&mut self, hook: Hook, port: Port, frame: &[u8]) -> Result<Outcome> {
        match hook {
            Hook::Tc => self.tc(port, frame),
            Hook::Xdp => self.xdp(port, frame),
            Hook::Egress => self.egress(port, frame),
        }
    }

    /// Runs the sweep as the agent does.
    pub fn sweep(&mut self) -> Result<()> {
        let frame = [0; 64];
        match self.ebpf.program("sweep").context("no sweep")? {
            Program::SchedClassifier(program) => run(program, &frame, &words(192, &[]))?,
            Program::Xdp(program) => run(program, &frame, &words(24, &[(4, frame.len() as u32)]))?,
            other => bail!("sweep is a {:?} program", other.prog_type()),
        };
        Ok(())
    }

    /// Attaches `ingress_tc` to every port until the next test; `ingress_xdp` is attached already.
    pub fn attach(&mut self) -> Result<()> {
        let program: &mut SchedClassifier = self.ebpf.program_mut("ingress_tc").context("no ingress_tc")?.try_into()?;
        for port in Port::ALL {
            let link = program.attach(port.name(), TcAttachType::Ingress)?;
            self.links.push(program.take_link(link)?);
        }
        Ok(())
    }

    /// Looks at what arrives at the far ends until the test ends, for [`Lab::sent_beside`].
    pub fn watch(&mut self) -> Result<()> {
        // The kernel takes its time to close a packet socket.
        if self.wires.is_empty() {
            self.wires = Port::ALL.into_iter().map(Wire::open_at_once).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Copies that the programs sent beside the frame in hand, since the last call, by where they went.
    pub fn sent_beside(&mut self) -> Vec<(Port, Vec<u8>)> {
        self.wires.iter_mut().flat_map(Wire::arrived).collect()
    }

    // What the programs wrote.

    pub fn index(&self, port: Port) -> u32 {
        self.ports[port as usize]
    }

    pub fn flows(&mut self, table: Table) -> Result<Vec<(FlowKey, Flow)>> {
        let map: HashMap<_, FlowKey, Flow> = self.hash_mut(table.name())?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    pub fn flow(&mut self, key: &FlowKey) -> Result<Option<(Table, Flow)>> {
        for table in [Table::Flows, Table::Embryonic] {
            if let Ok(flow) = self.hash_mut::<FlowKey, Flow>(table.name())?.get(key, 0) {
                return Ok(Some((table, flow)));
            }
        }
        Ok(None)
    }

    pub fn put_flow(&mut self, table: Table, key: &FlowKey, flow: &Flow) -> Result<()> {
        Ok(self.hash_mut::<FlowKey, Flow>(table.name())?.insert(key, flow, 0)?)
    }

    pub fn remove_flow(&mut self, table: Table, key: &FlowKey) -> Result<()> {
        Ok(self.hash_mut::<FlowKey, Flow>(table.name())?.remove(key)?)
    }

    pub fn fragments(&mut self) -> Result<Vec<(FragmentKey, FragmentTrack)>> {
        let map: HashMap<_, FragmentKey, FragmentTrack> = self.hash_mut(names::FRAGMENTS)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    pub fn put_fragment(&mut self, key: &FragmentKey, track: &FragmentTrack) -> Result<()> {
        Ok(self.hash_mut::<FragmentKey, FragmentTrack>(names::FRAGMENTS)?.insert(key, track, 0)?)
    }

    pub fn held(&mut self) -> Result<usize> {
        let map: HashMap<_, HeldKey, gateway_common::HeldFragment> = self.map_mut(names::HELD)?;
        Ok(map.keys().collect::<Result<Vec<_>, _>>()?.len())
    }

    pub fn listener_counter(&mut self, id: u32) -> Result<Counter> {
        self.counter(names::LISTENER_COUNTERS, id)
    }

    pub fn backend_counter(&mut self, id: u32) -> Result<Counter> {
        self.counter(names::BACKEND_COUNTERS, id)
    }

    pub fn has_map(&self, name: &str) -> bool {
        self.ebpf.map(name).is_some()
    }

    /// The records written since the last call.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut ring: RingBuf<&mut MapData> = self.map_mut(names::EVENTS)?;
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            events.push(decode(&record)?);
        }
        Ok(events)
    }

    pub fn events_lost(&mut self) -> Result<u64> {
        let map: PerCpuArray<_, u64> = self.map_mut(names::EVENTS_LOST)?;
        Ok(map.get(&0, 0)?.iter().sum())
    }

    fn outcome(&mut self, hook: Hook, port: Port, verdict: i32, input: &[u8], frame: Vec<u8>) -> Result<Outcome> {
        let drops = self.read_drops()?;
        let before = std::mem::replace(&mut self.drops, drops);
        let mut reasons = Vec::new();
        for reason in Reason::ALL {
            let i = *reason as usize;
            reasons.extend((before[i]..self.drops[i]).map(|_| *reason));
        }
        PROVOKED.lock().expect("no test panics while it holds this").extend(&reasons);
        assert_eq!(before[0], self.drops[0], "a drop was counted without a reason (index 0)");
        Ok(Outcome { hook, port, verdict, input: input.to_vec(), frame, reasons })
    }

    fn read_drops(&mut self) -> Result<[u64; REASONS]> {
        let map: PerCpuArray<_, u64> = self.map_mut(names::DROPS)?;
        let mut drops = [0; REASONS];
        for (i, drop) in drops.iter_mut().enumerate() {
            *drop = map.get(&(i as u32), 0)?.iter().sum();
        }
        Ok(drops)
    }

    fn counter(&mut self, map: &str, id: u32) -> Result<Counter> {
        let values = self.per_cpu_mut(map)?.get(&id, 0)?;
        Ok(values.iter().fold(Counter::default(), |sum, c| Counter {
            picked: sum.picked + c.picked,
            established: sum.established + c.established,
            closed: sum.closed + c.closed,
            refused: sum.refused + c.refused,
            packets_in: sum.packets_in + c.packets_in,
            bytes_in: sum.bytes_in + c.bytes_in,
            packets_out: sum.packets_out + c.packets_out,
            bytes_out: sum.bytes_out + c.bytes_out,
        }))
    }

    fn xdp_program(&mut self) -> Result<&mut Xdp> {
        Ok(self.ebpf.program_mut("ingress_xdp").context("no ingress_xdp")?.try_into()?)
    }

    fn clear<K: Pod, V: Pod>(&mut self, name: &str) -> Result<()> {
        let mut map = self.hash_mut::<K, V>(name)?;
        for key in map.keys().collect::<Result<Vec<_>, _>>()? {
            map.remove(key.borrow())?;
        }
        Ok(())
    }

    fn hash_mut<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        self.map_mut(name)
    }

    fn array_mut<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        self.map_mut(name)
    }

    fn per_cpu_mut(&mut self, name: &str) -> Result<PerCpuArray<&mut MapData, Counter>> {
        self.map_mut(name)
    }

    fn map_mut<'a, M>(&'a mut self, name: &str) -> Result<M>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.map_mut(name).with_context(|| format!("the eBPF object has no map {name}"))?;
        M::try_from(map).with_context(|| format!("the map {name} is not what gateway-common says"))
    }
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Flows => names::FLOWS,
            Table::Embryonic => names::EMBRYONIC,
        }
    }
}

/// The monotonic clock the programs read, ns.
pub fn now() -> Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

fn object() -> Result<Vec<u8>> {
    let path = std::env::var_os(OBJECT_VARIABLE).map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../gateway-ebpf/target/bpfel-unknown-none/release/gateway-ebpf")
        },
        PathBuf::from,
    );
    let advice = "run `cargo xtask test`, which builds it, or name an object built elsewhere in SLUICE_EBPF_OBJECT";
    let object = std::fs::read(&path).with_context(|| format!("no eBPF object at {}: {advice}", path.display()))?;
    if !object.starts_with(b"\x7fELF") {
        bail!("{} is a stub, not an eBPF object: {advice}", path.display());
    }
    Ok(object)
}

fn cpus() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("cannot read {path}: {error}"))
}

fn run<P>(program: &P, frame: &[u8], context: &[u8]) -> Result<(i32, Vec<u8>)>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut out = vec![0; FRAME];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(context),
            ..TestRunOptions::default()
        })
        .with_context(|| format!("BPF_PROG_TEST_RUN of {} bytes", frame.len()))?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value as i32, out))
}

/// A context of so many bytes with 32-bit words at the given offsets.
fn words(size: usize, values: &[(usize, u32)]) -> Vec<u8> {
    let mut context = vec![0; size];
    for (offset, value) in values {
        context[*offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}

fn decode(record: &[u8]) -> Result<Event> {
    let fixed = |at: usize| -> Result<[u8; 8]> {
        let bytes = record.get(at..at + 8).with_context(|| format!("an event of {} bytes", record.len()))?;
        Ok(bytes.try_into()?)
    };
    let long = |at| fixed(at).map(u64::from_ne_bytes);
    let word = |at| fixed(at).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let half = |at| fixed(at).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let address = |at| -> Result<_> {
        let (high, low) = (fixed(at)?, fixed(at + 8)?);
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&high);
        octets[8..].copy_from_slice(&low);
        Ok(Address { octets })
    };
    let event = Event {
        time: long(0)?,
        client: FlowKey {
            source: address(8)?,
            destination: address(24)?,
            source_port: half(40)?,
            destination_port: half(42)?,
            protocol: fixed(44)?[0],
            _pad: [0; 3],
        },
        listener: word(48)?,
        backend: word(52)?,
        kind: fixed(56)?[0],
        detail: word(60)?,
        bytes_in: long(64)?,
        bytes_out: long(72)?,
        packets: long(80)?,
        name: record.get(96..160).with_context(|| format!("an event of {} bytes", record.len()))?.try_into()?,
        ..Event::default()
    };
    Ok(event)
}
