#![no_main]

#[path = "../properties/window.rs"]
mod window;

libfuzzer_sys::fuzz_target!(|data: &[u8]| window::holds(data));
