#![no_main]

#[path = "../properties/http_framing.rs"]
mod http_framing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_framing::holds(data));
