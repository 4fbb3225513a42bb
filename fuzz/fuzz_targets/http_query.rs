#![no_main]

#[path = "../properties/http_query.rs"]
mod http_query;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_query::holds(data));
