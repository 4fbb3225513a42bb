#![no_main]

#[path = "../properties/checksum.rs"]
mod checksum;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checksum::holds(data));
