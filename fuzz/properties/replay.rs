//! The corpus of a fuzz target, for who has no fuzzer.

#[track_caller]
pub fn replay(target: &str, holds: fn(&[u8])) {
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
