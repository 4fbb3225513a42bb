//! The agent is killed in every phase of a connection, and comes back or not: none is lost.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_tests::client::PATIENCE;
use gateway_tests::lab::{Agent, Fate, Segment, Way, Wired, eventually, wait_for};
use socket2::SockRef;

use super::floods::keys;
use super::{Stepwise, TlsBed, on_gateway};
use crate::floods::refusals;

/// How far a connection has come when the agent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    BeforeSyn,
    Accepted,
    HalfHello,
    Connecting,
    Replaying,
    Established,
}

const PHASES: [Phase; 6] =
    [Phase::BeforeSyn, Phase::Accepted, Phase::HalfHello, Phase::Connecting, Phase::Replaying, Phase::Established];

const NAME: &str = "remote.test";

/// Keeps each connection to the backend in the phase that was wanted when it came up.
struct Hold<'b> {
    bed: &'b TlsBed,
    wanted: Arc<Mutex<Phase>>,
}

impl<'b> Hold<'b> {
    fn begin(bed: &'b TlsBed) -> Hold<'b> {
        let wanted = Arc::new(Mutex::new(Phase::Established));
        let mut phases = HashMap::new();
        let wish = wanted.clone();
        bed.world.remote_wire().script(move |way, segment| {
            match *phases.entry(segment.connection).or_insert_with(|| *wish.lock().unwrap()) {
                Phase::Connecting => Fate::Drop,
                // The SYN-ACK comes back; nothing goes there any more.
                Phase::Replaying if way == Way::Forth && !segment.syn => Fate::Drop,
                _ => Fate::Pass,
            }
        });
        Hold { bed, wanted }
    }

    /// Brings a new connection to a phase.
    fn bring(&self, target: SocketAddr, phase: Phase) -> Option<Stepwise> {
        *self.wanted.lock().unwrap() = phase;
        let wire = self.bed.world.remote_wire();
        let before = wire.seen().iter().map(|(_, segment, _)| segment.connection + 1).max().unwrap_or(0);
        let sent = |hello: &[u8]| match phase {
            Phase::Accepted => 0,
            Phase::HalfHello => hello.len() / 2,
            _ => hello.len(),
        };
        if phase == Phase::BeforeSyn {
            return None;
        }
        let mut client = Stepwise::connect(self.bed, target, NAME, &self.bed.client).unwrap();
        let sent = sent(&client.hello);
        client.stream.write_all(&client.hello[..sent]).unwrap();
        client.hello.drain(..sent);
        let arrived = |what: &str, of: fn(Way, &Segment) -> bool| {
            let came = |(way, segment, _): &(Way, Segment, Fate)| segment.connection >= before && of(*way, segment);
            eventually(what, || wire.seen().iter().any(came));
        };
        match phase {
            Phase::Connecting => arrived("a SYN to the backend", |way, segment| way == Way::Forth && segment.syn),
            Phase::Replaying => {
                arrived("the hello to the backend", |way, segment| way == Way::Forth && segment.length > 0);
            }
            Phase::Established => {
                arrived("an answer of the backend", |way, segment| way == Way::Back && segment.length > 0);
            }
            _ => {}
        }
        Some(client)
    }
}

/// The rest of the hello, and the connection.
fn finish(bed: &TlsBed, target: SocketAddr, client: Option<Stepwise>) -> std::io::Result<String> {
    let mut client = match client {
        Some(client) => client,
        None => Stepwise::connect(bed, target, NAME, &bed.client)?,
    };
    client.stream.write_all(&client.hello)?;
    client.finish()
}

#[test]
fn connections_survive_the_death_of_the_agent_in_every_phase() {
    let bed = TlsBed::wired(Wired { client: false, remote: true });
    for comes_back in [false, true] {
        let agent = bed.agent();
        let hold = Hold::begin(&bed);
        let mut clients = Vec::new();
        for phase in PHASES {
            clients.extend(on_gateway().map(|target| (target, phase, hold.bring(target, phase))));
        }
        agent.kill().unwrap();
        let mut agent = comes_back.then(|| Agent::launch(&bed.world.gateway, bed.manifests.path(), &[]).unwrap());
        // A backend that says nothing is given up after some seconds, and a busy machine starts slowly.
        std::thread::sleep(Duration::from_millis(500));
        bed.world.remote_wire().heal();
        agent.iter_mut().for_each(|agent| agent.ready().unwrap());
        for (target, phase, client) in clients {
            let said = finish(&bed, target, client).unwrap_or_else(|error| {
                let refused = agent.as_ref().map(refusals);
                panic!("{target}, {phase:?}, new agent: {comes_back}: {error}; refused: {refused:?}")
            });
            assert!(said.contains("sni=remote.test"), "{said}");
        }
    }
}

/// A client's RST in every phase: the backend hears of it if it knew of the connection, and nothing is left.
#[test]
fn client_may_reset_in_every_phase() {
    let bed = TlsBed::wired(Wired { client: false, remote: true });
    let agent = bed.agent();
    // What the gateway knows of clients that have not closed.
    let kept = || {
        let hellos = agent.metric("sluice_map_entries", &["\"HELLOS\""]).unwrap();
        [keys(&bed.world.gateway, "HANDSHAKES").len(), hellos as usize, keys(&bed.world.gateway, "FLOWS").len()]
    };
    let nothing_is_kept = |target: SocketAddr, phase: Phase| {
        let check = || match kept() {
            [0, 0, 0] => Ok(()),
            left => Err(anyhow::anyhow!("{target} after a RST in {phase:?}: {left:?}")),
        };
        wait_for("the connection to be forgotten", PATIENCE, check).unwrap();
    };
    let established = || {
        let said = bed.world.remote.run("ss -Htn state established state syn-recv").unwrap();
        said.lines().count()
    };
    for phase in PHASES {
        for target in on_gateway() {
            let Some(client) = Hold::begin(&bed).bring(target, phase) else { continue };
            SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            nothing_is_kept(target, phase);
            // In this phase the wire keeps the RST itself from the backend, and nobody sends it again.
            let told = phase != Phase::Replaying;
            bed.world.remote_wire().heal();
            if told {
                eventually("the backend to have no connection", || established() == 0);
            }
            assert!(bed.who(target, NAME).is_ok(), "{target} after a RST in {phase:?}");
            // The wire would hold the rest of it in the next phase.
            nothing_is_kept(target, phase);
        }
    }
}

#[test]
fn new_names_and_certificates_need_no_new_connection() {
    let bed = TlsBed::new();
    let _agent = bed.agent();
    let [target, _] = on_gateway();
    bed.world.client.block_on(|| async {
        let mut connection = gateway_tests::tls::Connection::open(target, "canary.test", &bed.client).await.unwrap();
        let before = connection.who().await.unwrap();
        // The route goes away under the connection, which stays.
        let manifest = std::fs::read_to_string(bed.manifests.path().join("tls.yaml")).unwrap();
        bed.manifests.replace("tls.yaml", &manifest.replace("canary.test", "budgie.wild.test")).unwrap();
        eventually("the name to be gone", || bed.who(target, "canary.test").is_err());
        assert_eq!(connection.who().await.unwrap(), before);
    });
}
