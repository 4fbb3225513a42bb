//! The agent is killed in every phase of a connection, and comes back or not: none is lost.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use gateway_tests::lab::{Fate, Way, Wired, eventually};
use socket2::SockRef;

use super::{Stepwise, TlsBed, on_gateway};

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

/// Brings a connection to a phase. The wire then keeps it there until it is healed.
fn bring(bed: &TlsBed, target: SocketAddr, phase: Phase) -> Option<Stepwise> {
    if phase == Phase::BeforeSyn {
        return None;
    }
    let wire = bed.world.remote_wire();
    match phase {
        Phase::Connecting => wire.script(|_, _| Fate::Drop),
        // The SYN-ACK comes back; nothing goes there any more.
        Phase::Replaying => {
            wire.script(|way, segment| if way == Way::Back || segment.syn { Fate::Pass } else { Fate::Drop })
        }
        _ => wire.script(|_, _| Fate::Pass),
    }
    let mut client = Stepwise::connect(bed, target, NAME, &bed.client).unwrap();
    let sent = match phase {
        Phase::Accepted => 0,
        Phase::HalfHello => client.hello.len() / 2,
        _ => client.hello.len(),
    };
    client.stream.write_all(&client.hello[..sent]).unwrap();
    client.hello.drain(..sent);
    let arrived = |what: &str, of: fn(Way, usize, bool) -> bool| {
        eventually(what, || wire.seen().iter().any(|(way, segment, _)| of(*way, segment.length, segment.syn)));
    };
    match phase {
        Phase::Connecting => arrived("a SYN to the backend", |way, _, syn| way == Way::Forth && syn),
        Phase::Replaying => arrived("the hello to the backend", |way, length, _| way == Way::Forth && length > 0),
        Phase::Established => arrived("an answer of the backend", |way, length, _| way == Way::Back && length > 0),
        _ => {}
    }
    Some(client)
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
    for phase in PHASES {
        for comes_back in [false, true] {
            let agent = bed.agent();
            let clients = on_gateway().map(|target| (target, bring(&bed, target, phase)));
            agent.kill().unwrap();
            let _agent = comes_back.then(|| bed.agent());
            bed.world.remote_wire().heal();
            for (target, client) in clients {
                let answer = finish(&bed, target, client);
                let said =
                    answer.unwrap_or_else(|error| panic!("{target}, {phase:?}, new agent: {comes_back}: {error}"));
                assert!(said.contains("sni=remote.test"), "{said}");
            }
        }
    }
}

/// A client's RST in every phase: the backend hears of it if it knew of the connection, and nothing is left.
#[test]
fn client_may_reset_in_every_phase() {
    let bed = TlsBed::wired(Wired { client: false, remote: true });
    let _agent = bed.agent();
    let established = || {
        let said = bed.world.remote.run("ss -Htn state established state syn-recv").unwrap();
        said.lines().count()
    };
    for phase in PHASES {
        for target in on_gateway() {
            let Some(client) = bring(&bed, target, phase) else { continue };
            SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            // What the wire still keeps from the backend is the RST itself, which nobody sends again: the backend then has to
            // find out when it sends.
            bed.world.remote_wire().heal();
            if phase != Phase::Replaying {
                eventually("the backend to have no connection", || established() == 0);
            }
            assert!(bed.who(target, NAME).is_ok(), "{target} after a RST in {phase:?}");
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
