#![no_main]

#[path = "../properties/http_request.rs"]
mod http_request;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_request::holds(data));
