#![no_main]

#[path = "../properties/maglev.rs"]
mod maglev;

libfuzzer_sys::fuzz_target!(|data: &[u8]| maglev::holds(data));
