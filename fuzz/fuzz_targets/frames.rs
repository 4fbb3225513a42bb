//! Frames through `ingress_tc` and `ingress_xdp`, in namespaces of their own: `cargo +nightly fuzz run frames` as root,
//! with the object built (`cargo xtask test` does). The kernel runs the programs, so libFuzzer sees no coverage of
//! them and lives by its seeds; a fault in a program itself is the verifier's to find.
#![no_main]

macro_rules! shared_with_the_packet_tests {
    ($($name:ident: $path:literal,)+) => {
        $(
            #[path = $path]
            #[allow(dead_code, unused_imports, reason = "the packet tests use the rest")]
            mod $name;
        )+
    };
}

shared_with_the_packet_tests! {
    lab: "../../tests/packets/lab.rs",
    net: "../../tests/packets/net.rs",
    outcome: "../../tests/packets/outcome.rs",
    packet: "../../tests/packets/packet.rs",
    scene: "../../tests/packets/scene.rs",
    sound: "../../tests/packets/sound.rs",
    wire: "../../tests/packets/wire.rs",
}

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

use crate::lab::Lab;
use crate::net::{Port, Version};

thread_local! {
    static LABS: RefCell<[Lab; 2]> = RefCell::new(labs().expect("a namespace and the eBPF object"));
}

/// A lab that knows IPv4 and one that knows IPv6, in the same namespace.
fn labs() -> anyhow::Result<[Lab; 2]> {
    net::enter()?;
    let mut labs = [Lab::new()?, Lab::with_sizes(&[])?];
    for (lab, version) in labs.iter_mut().zip(Version::ALL) {
        sound::busy(lab, version)?;
    }
    Ok(labs)
}

fuzz_target!(|frame: &[u8]| {
    if frame.len() < 14 || frame.len() > 2048 {
        return;
    }
    LABS.with_borrow_mut(|labs| {
        for lab in labs {
            for port in [Port::Ext0, Port::Ext1] {
                sound::anything(lab, port, frame).expect("BPF_PROG_TEST_RUN takes the frame");
            }
        }
    });
});
