#![no_main]

#[path = "../properties/http_host.rs"]
mod http_host;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_host::holds(data));
