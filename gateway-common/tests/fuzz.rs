//! The fuzz targets of the algorithms on their corpus and on some random bytes, for who has no fuzzer.

#[path = "../../fuzz/properties/checksum.rs"]
mod checksum;
#[path = "../../fuzz/properties/maglev.rs"]
mod maglev;

use proptest::prelude::*;

#[track_caller]
fn replay(target: &str, holds: fn(&[u8])) {
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut seeds = 0;
    for file in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder}: {e}")) {
        let path = file.expect("an entry").path();
        println!("{}", path.display());
        holds(&std::fs::read(path).expect("a seed"));
        seeds += 1;
    }
    assert!(seeds > 0, "no seed in {folder}");
}

#[test]
fn corpus_of_maglev() {
    replay("maglev", maglev::holds);
}

#[test]
fn corpus_of_checksum() {
    replay("checksum", checksum::holds);
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
}
