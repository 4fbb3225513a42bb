//! The control sentence, carried out: changed objects in, map entries and status out.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use std::{io, mem};

use gateway_common::Config;
use hashbrown::HashMap;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::addresses::{Addressing, Held, Pool};
use crate::admin::{self, BackendName, Durations, Names, Routes, Snapshot, Watchers, view};
use crate::apply::Object;
use crate::apply::address_file::AddressFile;
use crate::apply::owners::Holder;
use crate::apply::status::{Board, Statuses};
use crate::compile::Compiled;
use crate::datapath::{Datapath, Events};
use crate::emit::in_force::{InForce, in_force};
use crate::emit::maps::{self, Wanted, ip};
use crate::emit::proxy::table;
use crate::emit::shares::BackendKey;
use crate::emit::status::{Kept, ObjectStatus};
use crate::index::{Change, Index, Name, NodeFacts, ObjectId, Reach, RouteType};
use crate::ir::{Ir, ListenerName, Target, Traffic};
use crate::proxy::{self, Tls};
use crate::source::{Problem, Severity};

/// The state of the whole agent.
pub struct Agent {
    index: Index,
    datapath: Datapath,
    /// Which addresses of the pool this node answers for.
    held: Held,
    /// Where it is kept which addresses were given out.
    address_file: Option<AddressFile>,
    /// Another machine that announces one of them is wrong.
    certain: bool,
    /// For whoever decides who answers for what: the addresses that Gateways have are others.
    addresses_changed: Rc<Notify>,
    /// Addresses that other machines claim too, which was said.
    contested: BTreeSet<IpAddr>,
    proxy: proxy::Handle,
    /// Sockets of the proxy's workers that the kernel does not know yet.
    steered: Vec<OwnedFd>,
    tls: Tls,
    compiled: Compiled,
    /// What was made of its IR.
    wanted: Wanted,
    statuses: Kept,
    /// For the other nodes of a cluster.
    in_force: InForce,
    /// Something else is in force.
    in_force_changed: Rc<Notify>,
    /// Whoever writes them into a cluster looks here.
    board: Rc<Board>,
    /// Listeners that did not get into the maps, and why.
    failed: Vec<(ListenerName, String)>,
    manifest_problems: Arc<[Problem]>,
    compile_problems: Vec<Problem>,
    apply_problems: Vec<String>,
    durations: Durations,
    ready: bool,
    /// Something is known of the objects. Before that nothing is written: what an earlier agent left goes on.
    told: bool,
    /// Made when it is asked for, until the next change.
    names: Option<Names>,
    watchers: Rc<Watchers>,
}

impl Agent {
    /// `steered`: a socket of each worker of the proxy.
    /// `board`: where it is told whose status is another.
    pub fn new(
        node: &str,
        datapath: Datapath,
        proxy: proxy::Handle,
        steered: Vec<OwnedFd>,
        tls: Tls,
        board: Rc<Board>,
    ) -> Agent {
        let node = NodeFacts { name: node.into(), addresses: datapath.addresses().to_vec() };
        Agent {
            index: Index::new(node),
            datapath,
            held: Held::Unknown,
            certain: false,
            addresses_changed: Rc::default(),
            address_file: None,
            contested: BTreeSet::new(),
            proxy,
            steered,
            tls,
            compiled: Compiled::default(),
            wanted: Wanted::default(),
            statuses: Kept::default(),
            in_force: InForce::default(),
            in_force_changed: Rc::default(),
            board,
            failed: Vec::new(),
            manifest_problems: Arc::default(),
            compile_problems: Vec::new(),
            apply_problems: Vec::new(),
            durations: Durations::default(),
            ready: false,
            told: false,
            names: None,
            watchers: Rc::default(),
        }
    }

    /// Gives Gateways addresses out of a pool, for which this node answers. Before the first change.
    pub fn assign_addresses(&mut self, addressing: Addressing, file: AddressFile) {
        *self.index.addressing_mut() = addressing;
        self.address_file = Some(file);
        self.held = Held::All;
        self.certain = true;
    }

    /// Gateways have addresses of a pool, which the status of Gateways keeps. Before the first change.
    pub fn follow_addresses(&mut self, pool: Pool) {
        *self.index.addressing_mut() = Addressing::new(pool, BTreeMap::new());
        self.index.addressing_mut().set_decides(false);
    }

    /// Whether it is this agent that gives Gateways addresses: the one that writes their status.
    pub fn decide_addresses(&mut self, decides: bool) {
        if self.index.addressing().decides() != decides {
            self.index.addressing_mut().set_decides(decides);
            if self.told {
                self.compile(&Reach { listeners: true, ..Reach::default() });
            }
        }
    }

    /// Gateways have addresses for which some node must answer.
    pub fn has_pool_addresses(&self) -> bool {
        !self.compiled.ir.announced_addresses.is_empty()
    }

    /// Whether another agent waits to take the place of this one, and has not yet.
    pub fn is_awaited(&self) -> bool {
        self.datapath.is_awaited()
    }

    /// Whether another agent takes connections in place of this one, which has let go.
    pub fn is_replaced(&self) -> bool {
        self.datapath.is_taken() && !self.datapath.is_awaited()
    }

    /// Leaves the kernel side to the other one. Nobody may call anything of this one any more but [`Agent::is_replaced`].
    pub fn let_go(&mut self) {
        self.datapath.let_go();
    }

    pub fn addresses_changed(&self) -> Rc<Notify> {
        Rc::clone(&self.addresses_changed)
    }

    /// Listeners that are not in force, as other nodes of a cluster are told of them; `None`: nothing is known of any yet.
    pub fn lacking(&self) -> Option<&BTreeSet<Box<str>>> {
        self.told.then_some(&self.in_force.lacking)
    }

    /// Something else is in force, and this agent is not the one that writes statuses, which knows.
    pub fn in_force_changed(&self) -> Rc<Notify> {
        Rc::clone(&self.in_force_changed)
    }

    /// When [`Agent::announce_due`] has something to do.
    pub fn announcement(&self) -> Option<Instant> {
        self.datapath.announcement()
    }

    /// Says on the links again where addresses now are.
    pub fn announce_due(&mut self) {
        self.datapath.announce_due();
    }

    /// Takes back addresses that other machines have said are theirs, if this node knows better.
    pub fn defend(&mut self) {
        if !self.certain {
            return;
        }
        let rivals = match self.datapath.rivals() {
            Ok(rivals) => rivals,
            Err(error) => {
                tracing::warn!(%error, "cannot read map ANNOUNCED: nobody sees whether others claim addresses of Gateways");
                return;
            }
        };
        for (address, mac) in &rivals {
            if self.contested.insert(*address) {
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                tracing::warn!(%address, mac, "another machine says that it has an address of the pool; this node goes on to \
                               claim it: take the address away from that machine, or out of the pool");
            }
            self.datapath.take_back(*address);
        }
        self.contested.retain(|address| rivals.iter().any(|(rival, _)| rival == address));
    }

    fn announce(&mut self) {
        let addresses = &self.compiled.ir.announced_addresses;
        if !self.told || self.held == Held::Unknown && !addresses.is_empty() {
            return;
        }
        let addresses = addresses.iter().map(|address| (*address, self.held.has(*address))).collect();
        self.datapath.announce(&addresses);
    }

    fn pool_addresses(&self) -> Vec<view::PoolAddress> {
        let of = |(address, held): (&IpAddr, &bool)| view::PoolAddress {
            address: *address,
            held: *held,
            contested: self.contested.contains(address),
        };
        self.datapath.announced().iter().map(of).collect()
    }

    /// What was decided on addresses is where the next decision starts from.
    fn remember_addresses(&mut self) {
        let decided = self.compiled.report.gateways.iter().map(|gateway| (&gateway.subject.name, &*gateway.of_pool));
        let addressing = self.index.addressing_mut();
        if !addressing.remember(decided) {
            return;
        }
        if let Some(file) = &self.address_file
            && let Err(error) = file.write(addressing.decided())
        {
            tracing::error!(path = %file.path().display(), %error, "cannot keep which addresses Gateways have: after a restart \
                            they may have others");
        }
    }

    /// Objects changed: index → compile → emit → apply, then the status.
    pub fn change(&mut self, changes: impl IntoIterator<Item = Change>, problems: Arc<[Problem]>) {
        let known = Arc::ptr_eq(&problems, &self.manifest_problems);
        for problem in problems.iter().filter(|p| !known && !self.manifest_problems.contains(p)) {
            say(problem);
        }
        self.manifest_problems = problems;
        self.told = true;
        let reach = self.index.apply(changes);
        self.compile(&reach);
    }

    /// What was heard of then is in the maps.
    pub fn changed(&self, heard: Instant) {
        self.durations.change.observe(heard.elapsed().as_secs_f64());
    }

    /// Interfaces, addresses or routes of the node changed.
    pub fn network_changed(&mut self) -> io::Result<()> {
        self.datapath.refresh_network()?;
        if !self.told {
            self.index.set_node_addresses(self.datapath.addresses().to_vec());
        } else if self.datapath.addresses() == self.index.node().addresses {
            self.apply(Instant::now());
        } else {
            self.index.set_node_addresses(self.datapath.addresses().to_vec());
            self.compile(&Reach::everything());
        }
        Ok(())
    }

    /// Says to the kernel where the proxy is. For what is spliced any address of the node will do.
    fn place_proxy(&mut self) {
        for v6 in [false, true] {
            let address = self.datapath.addresses().iter().find(|address| address.is_ipv6() == v6);
            let socket = address.map(|address| SocketAddr::new(*address, self.proxy.port()));
            if let Err(error) = self.datapath.set_agent_socket(v6, socket) {
                tracing::error!("connections that the agent must take itself are refused: {error}");
            }
        }
        let sockets: Vec<_> = self.steered.iter().map(AsFd::as_fd).collect();
        match self.datapath.steer(&sockets) {
            Ok(()) => self.steered.clear(),
            Err(error) => {
                tracing::error!("connections to HTTP listeners are refused: cannot write AGENT_SOCKETS: {error}")
            }
        }
    }

    fn compile(&mut self, reach: &Reach) {
        let start = Instant::now();
        let before = Arc::clone(&self.compiled.ir);
        self.compiled.follow(&self.index, reach);
        if reach.everything || reach.listeners {
            self.remember_addresses();
        }
        self.durations.compile.observe(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let ir = &self.compiled.ir;
        if ir.announced_addresses != before.announced_addresses {
            self.addresses_changed.notify_one();
        }
        self.wanted = maps::maps(ir, Some((&before, mem::take(&mut self.wanted))));
        // Before the kernel sends connections for what is new, or any at all.
        let http = proxy::http::snapshot::Snapshot::build(ir, &self.proxy.http());
        self.proxy.publish(table(ir, &self.proxy.table(), &self.tls), http);
        self.place_proxy();
        let failed = listeners(&self.apply(start));
        let others = reach.everything || reach.listeners || failed != self.failed;
        self.failed = failed;
        self.write_statuses(others);
        self.tell_problems();
    }

    /// Says which objects did not get into the maps, and why.
    fn apply(&mut self, start: Instant) -> Vec<crate::apply::Problem> {
        let applied = self.datapath.apply(&self.wanted);
        // After the listeners: who hears of an address finds them there.
        self.announce();
        let took = start.elapsed();
        self.durations.apply.observe(took.as_secs_f64());
        if applied.backends_removed {
            self.sweep();
        }
        // An object that finds no room is that object's problem; a map that cannot be written is the agent's.
        self.ready |= !applied.problems.iter().any(|problem| problem.is_of_the_kernel());
        self.names = None;
        let problems: Vec<String> = applied.problems.iter().map(ToString::to_string).collect();
        for problem in problems.iter().filter(|p| !self.apply_problems.contains(p)) {
            tracing::error!("{problem}");
        }
        self.apply_problems = problems;
        if applied.writes + applied.removals > 0 {
            tracing::debug!(writes = applied.writes, removals = applied.removals, ?took, "maps changed");
        }
        applied.problems
    }

    /// `others`: listeners may be others, or in force where they were not.
    fn write_statuses(&mut self, others: bool) {
        let mut report = Cow::Borrowed(&self.compiled.report);
        for (listener, why) in &self.failed {
            report.to_mut().not_programmed(listener, why);
        }
        if others {
            let before = std::mem::replace(&mut self.in_force, in_force(&report));
            if before.digest != self.in_force.digest && !self.index.addressing().decides() {
                self.in_force_changed.notify_one();
            }
        }
        for id in self.statuses.follow(&report, Timestamp::now()) {
            self.board.touch(id);
        }
    }

    fn tell_problems(&mut self) {
        let problems = &self.compiled.report.problems;
        if *problems == self.compile_problems {
            return;
        }
        for problem in problems.iter().filter(|p| self.compile_problems.binary_search(p).is_err()) {
            say(problem);
        }
        self.compile_problems.clone_from(problems);
    }

    /// Ends idle flows.
    pub fn sweep(&self) {
        match self.datapath.sweep() {
            Ok(ended) => tracing::trace!(ended, "swept"),
            Err(error) => tracing::warn!(error, "the kernel did not run `sweep`: idle connections are not ended"),
        }
    }

    pub fn events(&self) -> Result<Events, impl std::error::Error + Send + Sync + 'static> {
        self.datapath.events()
    }

    /// Writes idle times and whether there are to be events.
    pub fn configure(&self, config: &Config) -> io::Result<()> {
        self.datapath.configure(config)
    }

    /// The names behind the ids that are in the maps now.
    pub fn names(&mut self) -> &Names {
        let (datapath, ir) = (&self.datapath, &self.compiled.ir);
        self.names.get_or_insert_with(|| names(datapath, ir))
    }
}

/// Those that did not, or not wholly, get into the maps, and why.
fn listeners(problems: &[crate::apply::Problem]) -> Vec<(ListenerName, String)> {
    let of_listener = |problem: &crate::apply::Problem| match &problem.object {
        Object::Listener(listener) => Some((listener.clone(), problem.error.to_string())),
        _ => None,
    };
    problems.iter().filter_map(of_listener).collect()
}

fn say(problem: &Problem) {
    match problem.severity {
        Severity::Error => tracing::error!("{problem}"),
        Severity::Warning => tracing::warn!("{problem}"),
        Severity::Note => tracing::info!("{problem}"),
    }
}

/// What stands in place of the Service for connections that the agent takes itself.
const AGENT: &str = "agent";

fn names(datapath: &Datapath, ir: &Ir) -> Names {
    let mut services: HashMap<BackendKey, Arc<str>> = HashMap::new();
    for listener in &ir.listeners {
        let protocol = maps::number(listener.protocol());
        for reference in listener.backend_sets().flat_map(|set| &set.refs) {
            let Target::Endpoints { service, endpoints, .. } = &reference.target else { continue };
            for endpoint in endpoints.iter() {
                let (address, port) = (maps::address(endpoint.address), endpoint.port);
                let key = BackendKey { address, port, protocol, proxy: endpoint.proxy_protocol };
                services.entry(key).or_insert_with(|| Arc::clone(service));
            }
        }
    }
    let applier = datapath.applier();
    let backends =
        applier.backend_ids().map(|(key, id)| (id, BackendName { key: *key, service: services.remove(key) }));
    let agent: Arc<str> = AGENT.into();
    let agent_sockets = applier.agent_sockets().map(|(id, socket)| {
        let key = BackendKey { address: socket.address, port: socket.port, protocol: socket.protocol, proxy: false };
        (id, BackendName { key, service: Some(Arc::clone(&agent)) })
    });
    Names {
        listeners: applier.listener_ids().map(|(name, id)| (id, name.clone())).collect(),
        backends: backends.chain(agent_sockets).collect(),
    }
}

impl Holder for Agent {
    fn addresses(&self) -> Option<BTreeSet<IpAddr>> {
        self.told.then(|| self.compiled.ir.announced_addresses.iter().copied().collect())
    }

    fn hold(&mut self, addresses: BTreeSet<IpAddr>, certain: bool) {
        self.certain = certain;
        let held = Held::Only(addresses);
        if self.held != held {
            self.held = held;
            self.announce();
        }
    }
}

impl Statuses for Agent {
    fn wanted(&self, id: &ObjectId) -> Option<&ObjectStatus> {
        self.statuses.find(id)
    }

    fn all(&self) -> Vec<ObjectId> {
        self.statuses.iter().map(ObjectStatus::id).collect()
    }

    fn served(&self, id: &ObjectId) -> Option<(Name, Vec<IpAddr>)> {
        let gateway = self.compiled.report.gateway_of(id)?;
        let announced = |address: &IpAddr| self.compiled.ir.announced_addresses.binary_search(address).is_ok();
        let addresses = gateway.of_pool.iter().copied().filter(announced).collect();
        Some((gateway.subject.name.clone(), addresses))
    }
}

impl admin::Subject for Agent {
    fn is_ready(&self) -> bool {
        self.ready
    }

    fn snapshot(&self) -> Snapshot {
        let index = &self.index;
        let routes = |of| index.routes().filter(|route| route.of == of).count();
        Snapshot {
            names: names(&self.datapath, &self.compiled.ir),
            fill: self.datapath.applier().fill(),
            capacity: self.datapath.applier().capacity(),
            objects: vec![
                ("GatewayClass", index.classes().count()),
                ("Gateway", index.gateways().count()),
                ("ListenerSet", index.listener_sets().count()),
                ("HTTPRoute", routes(RouteType::Http)),
                ("GRPCRoute", routes(RouteType::Grpc)),
                ("TCPRoute", routes(RouteType::Tcp)),
                ("TLSRoute", routes(RouteType::Tls)),
                ("UDPRoute", routes(RouteType::Udp)),
                ("EndpointSlice", index.slices().count()),
            ],
            addresses: self.pool_addresses(),
            interfaces: self.datapath.interfaces().values().filter(|i| i.tc.is_ok()).count(),
            problems: self.manifest_problems.len() + self.compile_problems.len() + self.apply_problems.len(),
            durations: self.durations.clone(),
            statuses: self.board.counts(),
            counters: self.datapath.counters(),
            contents: self.datapath.contents(),
            proxy: self.proxy.clone(),
        }
    }

    fn status(&self) -> view::Status {
        let (applier, counters) = (self.datapath.applier(), self.datapath.counters());
        let names = names(&self.datapath, &self.compiled.ir);
        // A counter that cannot be read counts nothing.
        let listeners = names
            .listeners
            .iter()
            .map(|(id, name)| (name.to_string(), counters.listener(*id).map(view::Counts::from).unwrap_or_default()));
        let mut backends: BTreeMap<String, BTreeMap<String, view::Counts>> = BTreeMap::new();
        for (id, backend) in &names.backends {
            let service = backend.service.as_deref().unwrap_or_default().to_owned();
            let endpoint = SocketAddr::new(ip(backend.key.address), backend.key.port);
            let endpoint = format!("{}/{endpoint}", view::protocol(backend.key.protocol));
            let counts = counters.backend(*id).map(view::Counts::from).unwrap_or_default();
            backends.entry(service).or_default().insert(endpoint, counts);
        }
        let drops = counters.drops().unwrap_or_default().into_iter().filter(|(_, packets)| *packets > 0);
        let problems = self.manifest_problems.iter().chain(&self.compile_problems).map(ToString::to_string);
        view::Status {
            node: Arc::clone(&self.index.node().name),
            version: env!("CARGO_PKG_VERSION"),
            ready: self.ready,
            objects: self.statuses.iter().cloned().collect(),
            listeners: listeners.collect(),
            server_names: view::NamesOfListeners::new(),
            backends,
            refused_packets: drops.map(|(reason, packets)| (reason.name(), packets)).collect(),
            proxy: self.proxy.counters().into(),
            http: admin::http_status(&self.proxy.http()),
            maps: view::fill(&applier.fill(), &applier.capacity()),
            addresses: self.pool_addresses(),
            interfaces: self.datapath.interfaces().values().cloned().collect(),
            problems: problems.chain(self.apply_problems.iter().cloned()).collect(),
        }
    }

    fn routes(&self) -> Routes {
        let mut routes = Routes::new();
        // `emit` has made one of each.
        for (listener, wanted) in self.compiled.ir.listeners.iter().zip(&self.wanted.listeners) {
            let (Traffic::Tls { names, .. }, Some(tls)) = (&listener.traffic, &wanted.tls) else { continue };
            for (name, wanted_name) in names.iter().zip(&tls.names) {
                let Some(backends) = &name.backends else { continue };
                let at = wanted.addresses.iter().map(|address| &address.key).filter(|at| wanted_name.is_on(at));
                routes.extend(at.map(|at| (wanted_name.key(at), Arc::clone(&backends.route))));
            }
        }
        routes
    }

    fn watchers(&self) -> Rc<Watchers> {
        Rc::clone(&self.watchers)
    }
}
