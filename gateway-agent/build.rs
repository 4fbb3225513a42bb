//! Embeds the eBPF object that `SLUICE_EBPF_OBJECT` points to (`cargo xtask build` sets it), or an empty stub, so that
//! `cargo check`, clippy and rust-analyzer work without the eBPF tool chain. Loading a stub is refused at run time.

use std::path::{Path, PathBuf};
use std::{env, fs};

const VARIABLE: &str = "SLUICE_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("sluice.o");
    let Some(object) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) else {
        return fs::write(&target, []).expect("OUT_DIR is writable");
    };
    println!("cargo::rerun-if-changed={}", Path::new(&object).display());
    if let Err(error) = fs::copy(&object, &target) {
        panic!("{VARIABLE} names {}, which cannot be read: {error}", Path::new(&object).display());
    }
}
