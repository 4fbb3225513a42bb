#![no_main]

#[path = "../properties/http_path.rs"]
mod http_path;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_path::holds(data));
