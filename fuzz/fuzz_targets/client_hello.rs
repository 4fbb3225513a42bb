#![no_main]

#[path = "../properties/client_hello.rs"]
mod client_hello;

libfuzzer_sys::fuzz_target!(|data: &[u8]| client_hello::holds(data));
