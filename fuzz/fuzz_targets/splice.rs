//! Connections through the splice, over a network that the bytes tell: `cargo +nightly fuzz run splice` as root, with the object
//! built. The kernel runs the programs, so libFuzzer sees how far the ends come, and no more.
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
    hello: "../../tests/packets/hello.rs",
    lab: "../../tests/packets/lab.rs",
    model: "../../tests/packets/model.rs",
    net: "../../tests/packets/net.rs",
    outcome: "../../tests/packets/outcome.rs",
    packet: "../../tests/packets/packet.rs",
    scene: "../../tests/packets/scene.rs",
    segment: "../../tests/packets/segment.rs",
    tape: "../../tests/packets/tape.rs",
    tls: "../../tests/packets/tls.rs",
    wire: "../../tests/packets/wire.rs",
    world: "../../tests/packets/world.rs",
}

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

use crate::lab::Lab;

thread_local! {
    static LAB: RefCell<Lab> = RefCell::new(lab().expect("a namespace and the eBPF object"));
}

fn lab() -> anyhow::Result<Lab> {
    net::enter()?;
    Lab::new()
}

fuzz_target!(|data: &[u8]| {
    LAB.with_borrow_mut(|lab| {
        if let Err(error) = tape::connection(lab, data) {
            panic!("{error:#}");
        }
    });
});
