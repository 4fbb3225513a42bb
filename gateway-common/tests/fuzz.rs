//! The fuzz targets of the algorithms on their corpus and on some random bytes, for who has no fuzzer.

#[path = "../../fuzz/properties/checksum.rs"]
mod checksum;
#[path = "../../fuzz/properties/client_hello.rs"]
mod client_hello;
#[path = "../../fuzz/properties/maglev.rs"]
mod maglev;
#[path = "../../fuzz/properties/replay.rs"]
mod replay;
#[path = "../../fuzz/properties/stash.rs"]
mod stash;
#[path = "../../fuzz/properties/window.rs"]
mod window;

use proptest::prelude::*;

use crate::replay::replay;

#[test]
fn corpus_of_maglev() {
    replay("maglev", maglev::holds);
}

#[test]
fn corpus_of_checksum() {
    replay("checksum", checksum::holds);
}

#[test]
fn corpus_of_client_hello() {
    replay("client_hello", client_hello::holds);
}

#[test]
fn corpus_of_stash() {
    replay("stash", stash::holds);
}

#[test]
fn corpus_of_window() {
    replay("window", window::holds);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_to_maglev(data in proptest::collection::vec(any::<u8>(), 0..900)) {
        maglev::holds(&data);
    }

    #[test]
    fn bytes_to_checksum(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        checksum::holds(&data);
    }

    /// Up to 80 segments, small ones as often as large ones: many holes, and all of them filled.
    #[test]
    fn segments_to_stash(segments in proptest::collection::vec((any::<u16>(), prop_oneof![0..64_u16, any::<u16>()]), 0..80)) {
        let bytes: Vec<u8> = segments.iter().flat_map(|(at, length)| [at.to_le_bytes(), length.to_le_bytes()].concat()).collect();
        stash::holds(&bytes);
    }

    #[test]
    fn bytes_to_window(data: [u8; 8]) {
        window::holds(&data);
    }
}

/// Every scale of the client with every one of the backend.
#[test]
fn scales_to_window() {
    for client in 0..16 {
        for backend in 0..16 {
            for field in [[0, 0], [0, 1], [1, 0xff], [0x7f, 0xff], [0xff, 0xff]] {
                window::holds(&[client, backend, field[0], field[1], field[0], field[1], field[0], field[1]]);
            }
        }
    }
}
