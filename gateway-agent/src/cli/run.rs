//! `sluice run`: the whole program, wired.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use gateway_common::{Config, HELLO_CHOICE};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tracing_subscriber::filter::LevelFilter;

use super::access_log::{self, AccessLog};
use super::session_keys::SessionKeys;
use super::{DEFAULT_PIN_DIR, DEFAULT_SOCKET};
use crate::addresses::{Addressing, Applied, Block, Nodes, Pool};
use crate::admin::{self, Subject};
use crate::agent::Agent;
use crate::apply;
use crate::apply::address_file::AddressFile;
use crate::apply::owners::{self, Leases, Saying};
use crate::apply::status::{Board, Lease};
use crate::datapath::{AttachOptions, Datapath, Monitor, Pins, Sizes, Successor, XdpMode, memory};
use crate::index::Change;
use crate::panics;
use crate::proxy::http::access_log::{Log, Which};
use crate::proxy::{self, Proxy, Tls};
use crate::source::files::{Batch, Watcher};
use crate::source::kube::{self, Api, Cluster, Following};

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    source: SourceOptions,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// `nodeName` of the endpoints that run on this node [default: the host name].
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where programs, maps and links are pinned; one directory a network namespace.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
    /// If an agent runs already, wait until it is told to stop, and take its place: it takes connections until this one does.
    #[arg(long)]
    take_over: bool,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464")]
    admin_address: SocketAddr,
    /// The unix socket that `sluice status` and `sluice maps` ask.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Write a JSON line a connection opened, closed or refused; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Where a JSON line a request of HTTP is written; `-` is standard output [default: standard output, of Gateways whose SluiceConfig
    /// says so].
    #[arg(long, value_name = "FILE")]
    http_access_log: Option<PathBuf>,
    /// Which requests, where no SluiceConfig says another: `none`, `all`, one in so many as `1/100`, or from a class of status on as `4xx`.
    #[arg(long, value_name = "WHICH", default_value = "all", requires = "http_access_log")]
    http_access_log_of: Which,
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
    #[command(flatten)]
    addresses: AddressOptions,
    #[command(flatten)]
    attach: Attach,
    #[command(flatten)]
    sizes: MapSizes,
    #[command(flatten)]
    idle: IdleTimes,
    #[command(flatten)]
    proxy: ProxyOptions,
    #[command(flatten)]
    sessions: SessionKeys,
}

/// Where the objects are; without any of these those of the cluster that the pod runs in.
#[derive(clap::Args)]
#[group(multiple = false)]
struct SourceOptions {
    /// A directory with manifests; it is watched.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// The cluster that this kubeconfig leads to.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// For objects of a cluster.
#[derive(clap::Args)]
#[command(next_help_heading = "In a cluster")]
struct ClusterOptions {
    /// The namespace of the Lease whose holder writes statuses [default: that of the pod, or of the kubeconfig].
    #[arg(long, value_name = "NAME", conflicts_with = "manifests")]
    namespace: Option<String>,
    /// Where the objects are kept as they were last, Secrets that Gateways refer to included: an agent that starts serves by them until
    /// the API server answers. Best on a file system in memory, like the pinned maps.
    #[arg(long, value_name = "FILE", default_value = "/run/sluice/objects.jsonl", conflicts_with = "manifests")]
    objects_file: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Addresses of Gateways.
#[derive(clap::Args)]
#[command(next_help_heading = "Addresses")]
struct AddressOptions {
    /// Addresses that Gateways are given, on the links of external interfaces: a CIDR, a range FIRST-LAST or one address; may be
    /// repeated. Nobody else may have them [default: Gateways share the node's own addresses].
    #[arg(long, value_name = "ADDRESSES")]
    address_pool: Vec<Block>,
    /// Without a cluster: where it is kept which Gateway has which address of the pool.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/sluice/addresses.json", conflicts_with = "kubeconfig")]
    address_file: PathBuf,
    /// In a cluster: for how long after the agent was told to stop other nodes leave this node its addresses.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, conflicts_with = "manifests")]
    address_restart: u64,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Interfaces")]
struct Attach {
    /// Where XDP is used besides TC.
    #[arg(long, value_enum, default_value_t)]
    xdp: XdpMode,
    /// An interface that traffic from outside comes in by; may be repeated [default: devices without a link kind, and those
    /// that a default route goes out by].
    #[arg(long, value_name = "NAME")]
    external_interface: Vec<String>,
    /// Use filters of the clsact queueing discipline although the kernel has tcx.
    #[arg(long)]
    no_tcx: bool,
}

/// Sizes of maps. A map of another size is made anew at the start, with what was in it.
#[derive(clap::Args)]
#[command(next_help_heading = "Map sizes")]
struct MapSizes {
    /// Addresses and ports of listeners, and addresses of Gateways.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().listener_addresses, value_parser = size())]
    max_listener_addresses: u32,
    /// Listeners.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().listeners, value_parser = size())]
    max_listeners: u32,
    /// Server names of TLS listeners, once for each address and port; their memory is taken as they come.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().server_names, value_parser = size())]
    max_server_names: u32,
    /// Different sets of backends.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().backend_sets, value_parser = size())]
    max_backend_sets: u32,
    /// Slots of Maglev tables, 8 bytes each: up to 2,042 a set of 16 backends, 5,114 of 64, 17,402 of 256, 66,542 of more.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().slots, value_parser = size())]
    max_slots: u32,
    /// Endpoints.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().backends, value_parser = size())]
    max_backends: u32,
    /// Halves of established connections: two a connection, 152 bytes each and what a hash entry takes.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().flows, value_parser = size())]
    max_flows: u32,
    /// Halves of connections that are being opened or have ended.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().embryonic, value_parser = size())]
    max_embryonic: u32,
    /// TLS connections whose ClientHello is under way, 9 KiB each; a multiple of 4.
    #[arg(long, value_name = "N", default_value_t = Sizes::default().hellos, value_parser = hellos)]
    hellos: u32,
}

fn size() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(2..1 << 28)
}

/// A new ClientHello is given one of so many slots.
fn hellos(text: &str) -> Result<u32, String> {
    let hellos: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if (8..=1 << 16).contains(&hellos) && hellos.is_multiple_of(HELLO_CHOICE) {
        return Ok(hellos);
    }
    Err(format!("a multiple of {HELLO_CHOICE} from 8 to 65536"))
}

/// How long a connection may be silent, in seconds.
#[derive(clap::Args)]
#[command(next_help_heading = "Idle times")]
struct IdleTimes {
    /// TCP connections whose client has not confirmed.
    #[arg(long, value_name = "SECONDS", default_value_t = seconds(Config::default().tcp_new))]
    idle_tcp_new: u64,
    #[arg(long, value_name = "SECONDS", default_value_t = seconds(Config::default().tcp_established))]
    idle_tcp_established: u64,
    /// One direction has sent FIN.
    #[arg(long, value_name = "SECONDS", default_value_t = seconds(Config::default().tcp_half_closed))]
    idle_tcp_half_closed: u64,
    /// Both have, or a RST went through.
    #[arg(long, value_name = "SECONDS", default_value_t = seconds(Config::default().tcp_closed))]
    idle_tcp_closed: u64,
    /// UDP flows of one packet, or without an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = seconds(Config::default().udp_new))]
    idle_udp_new: u64,
    #[arg(long, value_name = "SECONDS", default_value_t = seconds(Config::default().udp_established))]
    idle_udp_established: u64,
    /// How often idle connections are looked for.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    sweep_interval: u64,
}

/// Connections that the agent takes itself.
#[derive(clap::Args)]
#[command(next_help_heading = "Connections through the agent")]
struct ProxyOptions {
    /// At a time; more are refused. Each may need 6 file descriptors.
    #[arg(long, value_name = "N", default_value_t = proxy::Options::default().connections, value_parser = number())]
    proxy_connections: usize,
    /// MiB that clients of HTTP may make the agent keep, by estimate: what comes when they are reached is answered with 503.
    #[arg(long, value_name = "MIB", default_value_t = proxy::Options::default().memory >> 20, value_parser = number())]
    proxy_memory: usize,
    /// How long a client may take for its ClientHello and the TLS handshake.
    #[arg(long, value_name = "SECONDS", default_value_t = proxy::Options::default().handshake.as_secs())]
    proxy_handshake: u64,
    /// How long connections may go on when the agent is told to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = proxy::Options::default().drain.as_secs())]
    proxy_drain: u64,
}

fn number() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    clap::value_parser!(u32).range(1..1 << 20).map(|n| n as usize)
}

const NS: u64 = 1_000_000_000;

fn seconds(ns: u64) -> u64 {
    ns / NS
}

/// Changes of the network come in bursts.
const SETTLE: Duration = Duration::from_millis(20);
/// How often the access log is written.
const LOG_INTERVAL: Duration = Duration::from_millis(100);

/// How long an agent that stops waits for the API server.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// How long an agent that stops waits for one that takes over.
const TAKE_OVER: Duration = Duration::from_secs(10);
const ON_THE_WAY: Duration = Duration::from_millis(500);

pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    memory::share_heap();
    log(options.log_format, options.log_level);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    LocalSet::new().block_on(&runtime, serve(options))?;
    // A thread that answers a slow reader is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Starts everything, goes on until it is told to stop, and leaves the kernel side attached and forwarding.
async fn serve(options: Options) -> anyhow::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;

    // From here on no change is missed.
    let mut network = Monitor::new().context("cannot listen to changes of the network")?;
    let board = Rc::default();
    // Before the file that another agent keeps is touched.
    let (pins, mut successor) = tokio::select! {
        taken = take_pins(&options) => taken?,
        _ = stop.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let Started { loaded, mut batches, origin, mut cluster } = start(&options, &board).await?;

    // What can fail for a wrong option comes before anything in the kernel is touched.
    let pool = Pool::new(options.addresses.address_pool.clone()).context("--address-pool")?;
    let address_file = cluster.is_none().then(|| AddressFile::open(&options.addresses.address_file)).transpose()?;
    let admin_address = options.admin_address;
    let http = TcpListener::bind(admin_address)
        .await
        .with_context(|| format!("cannot listen on {admin_address}; give another --admin-address"))?;
    let (socket, socket_file) = bind_socket(&options.socket)?;
    let session_keys = options.sessions.read()?;
    let moves = access_log::Moves::default();
    let log = options.access_log.as_deref().map(|path| access_log::open(path, &moves)).transpose()?;
    let http_log = access_log::open(options.http_access_log.as_deref().unwrap_or(Path::new("-")), &moves)?;

    let mut datapath = Datapath::open(pins, &options.sizes(), options.attach())?;
    let mut trace = datapath.take_trace();
    let origins = datapath.origins();
    let gateway_of = Box::new(move |local, peer| origins.gateway(local, peer));
    let mut proxy =
        Proxy::start(options.proxy(), gateway_of).context("cannot listen for connections from the kernel")?;
    let logged = if options.http_access_log.is_some() { options.http_access_log_of } else { Which::None };
    let http_log = Log::start(logged, http_log).context("cannot start the access log of requests")?;
    // Nobody else sets it.
    let _ = proxy.handle().http().shared.log.set(http_log);
    if let Some(keys) = session_keys {
        proxy.handle().sign_sessions(keys);
    }
    let mut config = options.config();
    config.agent_ports = datapath.agent_ports(proxy.handle().port()).context("cannot read map CONFIG")?;
    config.workers = proxy.handle().workers() as u32;
    datapath.configure(&config).context("cannot write map CONFIG")?;
    let tls = Tls::new().context("cannot make keys for session tickets")?;
    let agent =
        Agent::new(&options.node_name(), datapath, proxy.handle(), proxy.take_steered(), tls, Rc::clone(&board));
    let agent = Rc::new(RefCell::new(agent));
    let kept = cluster.as_ref().map(|(_, cluster)| Rc::clone(cluster));
    let mut owning = cluster.clone().map(|(api, cluster)| {
        let restart = Duration::from_secs(options.addresses.address_restart);
        let urgent = !pool.is_empty();
        talk_to_nodes(api, cluster, &options.node_name(), restart, urgent, Rc::clone(&agent))
    });
    let mut statuses = None;
    let mut access_log = AccessLog::new(log, agent.borrow().events().context("cannot read map EVENTS")?);
    let watchers = agent.borrow().watchers();
    match address_file {
        Some((file, decided)) => agent.borrow_mut().assign_addresses(Addressing::new(pool, decided), file),
        None => agent.borrow_mut().follow_addresses(pool),
    }
    let doors = [
        spawn_local(admin::serve_http(http, Rc::clone(&agent))),
        spawn_local(admin::serve_socket(socket, Rc::clone(&agent))),
    ];

    // Of a cluster perhaps nothing is known yet: until it is, what an earlier agent left in the kernel goes on.
    let mut ready = match loaded {
        Some(loaded) => {
            agent.borrow_mut().change(loaded.changes, loaded.problems);
            true
        }
        None => false,
    };
    if ready {
        drop(successor.take());
        say_ready(&origin, &options.pin_dir);
    }

    let mut sweep = interval(Duration::from_secs(options.idle.sweep_interval));
    let mut write_log = interval(LOG_INTERVAL);
    for timer in [&mut sweep, &mut write_log] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let (mut refresh, mut quiet) = (None::<Instant>, Instant::now());
    loop {
        let announcement = agent.borrow().announcement();
        tokio::select! {
            batch = batches.recv() => {
                let batch = batch.with_context(|| format!("{origin} is not watched any more"))?;
                agent.borrow_mut().change(batch.changes, batch.problems);
                agent.borrow().changed(batch.heard);
                if let Some(cluster) = &kept {
                    cluster.applied();
                }
                if !std::mem::replace(&mut ready, true) {
                    // New connections come here now.
                    drop(successor.take());
                    say_ready(&origin, &options.pin_dir);
                }
                // Not before, nor by what was kept: it would take away what it does not know of.
                if let (Some((api, cluster)), Some((_, nodes))) = (cluster.take(), &owning) {
                    let (agent, board) = (Rc::clone(&agent), Rc::clone(&board));
                    statuses = Some(write_statuses(api, cluster, &options.node_name(), agent, board, nodes.clone()));
                }
            }
            changed = network.changed() => {
                changed.context("cannot listen to changes of the network")?;
                refresh.get_or_insert((Instant::now() + SETTLE).max(quiet));
            }
            () = sleep_until(refresh.unwrap_or_else(Instant::now).into()), if refresh.is_some() => {
                let start = Instant::now();
                if let Err(error) = agent.borrow_mut().network_changed() {
                    tracing::warn!(%error, "cannot ask the kernel for interfaces and routes; trying again");
                    refresh = Some(start + Duration::from_secs(1));
                } else {
                    refresh = None;
                }
                // Many backends and a network in motion: at most a tenth of the time goes there.
                quiet = start + start.elapsed() * 10;
            }
            () = sleep_until(announcement.unwrap_or_else(Instant::now).into()), if announcement.is_some() => {
                agent.borrow_mut().announce_due();
            }
            _ = sweep.tick() => {
                agent.borrow().sweep();
                agent.borrow_mut().defend();
                memory::trim_heap();
            }
            () = watchers.joined() => {
                if config.events == 0 {
                    access_log.forget();
                    config.events = 1;
                    agent.borrow().configure(&config).context("cannot write map CONFIG")?;
                }
                watchers.greet();
            }
            _ = write_log.tick(), if config.events != 0 || trace.is_some() => {
                if let Some(trace) = &mut trace {
                    trace.flush();
                }
                access_log.tell(&agent, &watchers);
                if config.events != 0 && !access_log.is_written() && watchers.is_empty() {
                    config.events = 0;
                    agent.borrow().configure(&config).context("cannot write map CONFIG")?;
                }
            }
            _ = hang_up.recv() => moves.say(),
            _ = stop.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping; programs stay attached and go on forwarding (`sluice uninstall` removes them)");
    if let Some(statuses) = &mut statuses {
        statuses.stop().await;
    }
    // Who was told to take over is replaced in the same way; the next agent may not have begun yet.
    let replaced = options.take_over || agent.borrow().is_awaited();
    if replaced {
        if let Some((owning, _)) = &mut owning {
            owning.stop().await;
        }
        for door in doors {
            door.abort();
            // It was aborted.
            let _ = door.await;
        }
        drop(socket_file);
        if let Some(cluster) = kept {
            cluster.leave_kept();
        }
        agent.borrow_mut().let_go();
    }
    let end = async {
        if replaced {
            tracing::info!("another agent takes over; until it does, connections are taken as before");
            let _ = timeout(TAKE_OVER, taken_over(&agent)).await;
            // A client that had asked for this one may not have heard yet that it is connected.
            tokio::time::sleep(ON_THE_WAY).await;
        }
        proxy.drain().await;
    };
    tokio::select! {
        () = end => {}
        // Told twice: at once.
        _ = stop.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Until here this node lives for the others.
    if let Some((owning, _)) = owning.as_mut().filter(|_| !replaced) {
        owning.stop().await;
    }
    Ok(())
}

async fn take_pins(options: &Options) -> anyhow::Result<(Pins, Option<Successor>)> {
    match options.take_over {
        true => Ok(Datapath::take_over(&options.pin_dir).await?),
        false => Ok((Datapath::take(&options.pin_dir)?, None)),
    }
}

/// Until the agent that has waited, or another if that one has ended, takes connections.
async fn taken_over(agent: &RefCell<Agent>) {
    while !agent.borrow().is_replaced() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A source of objects.
struct Started {
    /// What is known at once.
    loaded: Option<Batch>,
    batches: mpsc::Receiver<Batch>,
    /// For people.
    origin: String,
    /// Where statuses are written to.
    cluster: Option<(Api, Rc<Cluster>)>,
}

async fn start(options: &Options, board: &Rc<Board>) -> anyhow::Result<Started> {
    if let Some(manifests) = &options.source.manifests {
        let (loaded, batches) = Watcher::start(manifests.clone())?;
        let changes = loaded.objects.into_iter().map(Change::Set).collect();
        let loaded = Batch { heard: Instant::now(), changes, problems: loaded.problems.into() };
        return Ok(Started { loaded: Some(loaded), batches, origin: manifests.display().to_string(), cluster: None });
    }
    let mut api = Api::new(options.source.kubeconfig.as_deref()).await?;
    if let Some(namespace) = &options.cluster.namespace {
        api.live_in(namespace.clone());
    }
    let origin = api.url();
    let keep = Some(&*options.cluster.objects_file);
    let Following { cluster, kept, batches } = kube::start(api.clone(), Rc::clone(board), keep);
    if let Some(kept) = &kept {
        tracing::info!(
            objects = kept.changes.len(),
            "the objects are those that an earlier agent has seen, until {origin} answers"
        );
    }
    Ok(Started { loaded: kept, batches, origin, cluster: Some((api, cluster)) })
}

/// A task that has something to say to the API server before it ends.
struct LastWord {
    stop: Rc<Notify>,
    task: JoinHandle<()>,
    /// Goes on for as long as nothing is said.
    also: Option<JoinHandle<()>>,
}

impl LastWord {
    async fn stop(&mut self) {
        if let Some(also) = &self.also {
            also.abort();
        }
        self.stop.notify_one();
        // If the API server is away, what was said before runs out by itself.
        let _ = timeout(GIVE_BACK, &mut self.task).await;
    }
}

/// Starts what writes statuses; when it is stopped another agent may write at once.
fn write_statuses(
    api: Api,
    cluster: Rc<Cluster>,
    node: &str,
    agent: Rc<RefCell<Agent>>,
    board: Rc<Board>,
    nodes: watch::Receiver<Nodes>,
) -> LastWord {
    let stop = Rc::new(Notify::new());
    let (lease, holding) = Lease::new(&api, node);
    let task = spawn_local(lease.run(Rc::clone(&stop)));
    spawn_local(decide_addresses(Rc::clone(&agent), holding.clone()));
    spawn_local(apply::status::write(api, cluster, agent, board, nodes, holding));
    LastWord { stop, task, also: None }
}

/// Whoever writes statuses also gives Gateways their addresses, which are kept there.
async fn decide_addresses(agent: Rc<RefCell<Agent>>, mut holding: watch::Receiver<bool>) {
    loop {
        let decides = *holding.borrow_and_update();
        agent.borrow_mut().decide_addresses(decides);
        if holding.changed().await.is_err() {
            return;
        }
    }
}

/// Starts what tells the other nodes that this one lives and what it has in force, and settles which of them answers for which address; when it
/// is stopped the others are told that a new agent will be here within `restart`. `urgent`: there are addresses that move, or will be.
fn talk_to_nodes(
    api: Api,
    cluster: Rc<Cluster>,
    node: &str,
    restart: Duration,
    urgent: bool,
    agent: Rc<RefCell<Agent>>,
) -> (LastWord, watch::Receiver<Nodes>) {
    let stop = Rc::new(Notify::new());
    let (leases, heard) = Leases::start(api, Rc::clone(&cluster), node);
    let saying = {
        let agent = Rc::clone(&agent);
        move || {
            let agent = agent.borrow();
            let lacking = agent.lacking()?;
            let applied = cluster.place().map(|reached| Applied { reached, lacking: lacking.clone() });
            Some(Saying { urgent: urgent || agent.has_pool_addresses(), applied })
        }
    };
    let (changed, news) = (agent.borrow().addresses_changed(), agent.borrow().in_force_changed());
    let task = spawn_local(owners::give_signs(Rc::clone(&leases), saying, news, restart, Rc::clone(&stop)));
    let (sender, nodes) = watch::channel(Nodes::default());
    let also = spawn_local(owners::follow(node.into(), leases, heard, agent, changed, sender));
    (LastWord { stop, task, also: Some(also) }, nodes)
}

fn say_ready(origin: &str, pins: &Path) {
    memory::forget_start();
    tracing::info!(source = origin, pins = %pins.display(), "ready");
}

fn log(format: LogFormat, level: LevelFilter) {
    use std::io::IsTerminal;
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
    panics::tell();
}

/// Removes the socket when the agent stops.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by somebody else.
        let _ = fs::remove_file(&self.0);
    }
}

fn bind_socket(path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    let bind = || -> io::Result<UnixListener> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there"));
        }
        // The agent before this one may have been killed.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener =
        bind().with_context(|| format!("cannot make the socket {}; give another --socket", path.display()))?;
    Ok((listener, SocketFile(path.to_owned())))
}

impl Options {
    fn node_name(&self) -> String {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.node_name.clone().unwrap_or_else(host)
    }

    fn attach(&self) -> AttachOptions {
        let Attach { xdp, external_interface, no_tcx } = &self.attach;
        AttachOptions { xdp: *xdp, external: external_interface.clone(), clsact: *no_tcx }
    }

    fn sizes(&self) -> Sizes {
        let sizes = &self.sizes;
        Sizes {
            listener_addresses: sizes.max_listener_addresses,
            listeners: sizes.max_listeners,
            server_names: sizes.max_server_names,
            backend_sets: sizes.max_backend_sets,
            slots: sizes.max_slots,
            backends: sizes.max_backends,
            flows: sizes.max_flows,
            embryonic: sizes.max_embryonic,
            hellos: sizes.hellos,
        }
    }

    fn proxy(&self) -> proxy::Options {
        let ProxyOptions { proxy_connections, proxy_memory, proxy_handshake, proxy_drain } = &self.proxy;
        proxy::Options {
            connections: *proxy_connections,
            memory: *proxy_memory << 20,
            handshake: Duration::from_secs(*proxy_handshake),
            drain: Duration::from_secs(*proxy_drain),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            ..proxy::Options::default()
        }
    }

    fn config(&self) -> Config {
        let idle = &self.idle;
        Config {
            tcp_new: idle.idle_tcp_new.saturating_mul(NS),
            tcp_established: idle.idle_tcp_established.saturating_mul(NS),
            tcp_half_closed: idle.idle_tcp_half_closed.saturating_mul(NS),
            tcp_closed: idle.idle_tcp_closed.saturating_mul(NS),
            udp_new: idle.idle_udp_new.saturating_mul(NS),
            udp_established: idle.idle_udp_established.saturating_mul(NS),
            events: u32::from(self.access_log.is_some()),
            hellos: self.sizes.hellos,
            ..Config::default()
        }
    }
}
