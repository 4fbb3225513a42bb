//! With native XDP on the node's external interfaces: what XDP takes off TC, real clients do not notice.

use super::clients::{curl, openssl};
use super::faults::exchange;
use super::{Path, TlsBed, on_gateway};
use crate::floods::refusals;
use crate::xdp::{counted, peers, start};

/// Of payload, each way.
const BYTES: usize = 3_000_000;
/// Segments of that which XDP must forward: nearly all, as few are behind a SYN or a FIN.
const SEGMENTS: u64 = 1_900;

#[test]
fn xdp_answers_syns_and_forwards_established_splices() {
    let bed = TlsBed::new();
    let world = &bed.world;
    let _peers = peers(world);
    let agent = start(&world.gateway, &bed.manifests, &["eth-client", "eth-remote"]);
    let answered = || counted(&world.gateway, "eth-client", "tx");
    let forwarded = || ["eth-client", "eth-remote"].map(|interface| counted(&world.gateway, interface, "redirect"));
    for target in on_gateway() {
        for site in ["remote", "pod-1"] {
            let path = Path { site, target, direct: false };
            let (syns, segments) = (answered(), forwarded());
            let mut connections = 0;
            for version in ["1.2", "1.3"] {
                let answer = curl(&bed, path, &path.name(""), &["--http1.1", "--tls-max", version]).unwrap();
                assert!(answer.starts_with(site), "{path:?}: {answer}");
                connections += 1;
            }
            for (version, wanted) in [("-tls1_2", "version=TLSv1_2"), ("-tls1_3", "version=TLSv1_3")] {
                let answer = openssl(&bed, path, &[version]).unwrap();
                assert!(answer.contains(wanted), "{path:?}: {answer}");
                connections += 1;
            }
            let name = path.name("");
            world.client.block_on(|| exchange(target, &name, &bed.client, BYTES)).unwrap();
            connections += 1;

            // XDP sends back SYN-ACKs and refusals, and of these there are none.
            assert_eq!(refusals(&agent), "");
            let syns = answered() - syns;
            assert!(syns >= connections, "{path:?}: XDP answered {syns} of {connections} SYNs");
            let [up, down] = [0, 1].map(|index| forwarded()[index] - segments[index]);
            println!(
                "{path:?}: {connections} connections, XDP answered {syns} SYNs and forwarded {up} and {down} segments"
            );
            // Into a pod goes TC, which finds the way to its interface; what a pod says does not come by these interfaces.
            let wanted = if site == "remote" { SEGMENTS } else { 0 };
            assert!(up >= wanted && down >= wanted, "{path:?}: XDP forwarded {up} and {down} segments");
        }
    }
}
