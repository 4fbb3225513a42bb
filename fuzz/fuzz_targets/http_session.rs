#![no_main]

#[path = "../properties/http_session.rs"]
mod http_session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_session::holds(data));
