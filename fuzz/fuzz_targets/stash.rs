#![no_main]

#[path = "../properties/stash.rs"]
mod stash;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stash::holds(data));
