//! Frames through the programs by BPF_PROG_TEST_RUN: what goes in, what comes out, and what the maps say after it.
//!
//! One process runs all tests, so that it knows at the end which drop reasons nothing provoked.

mod answer;
mod cases;
mod hello;
mod lab;
mod model;
mod net;
mod outcome;
mod packet;
mod pool;
mod scene;
mod segment;
mod sound;
mod tape;
mod tls;
mod wire;
mod world;

use std::process::ExitCode;

use gateway_common::Reason;
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let pool = pool::Pool::new(2);
    let conclusion = libtest_mimic::run(&arguments, cases::all(&pool));
    pool.close();
    if conclusion.has_failed() || arguments.list || conclusion.num_filtered_out > 0 {
        return conclusion.exit_code();
    }
    let provoked = lab::PROVOKED.lock().expect("no test runs any more");
    let missing: Vec<&str> = Reason::ALL.iter().filter(|r| !provoked.contains(r)).map(|r| r.name()).collect();
    if conclusion.num_passed == 0 || !missing.is_empty() {
        eprintln!(
            "{} packet tests ran, and none of them provokes {missing:?}: add one below tests/packets/cases",
            conclusion.num_passed
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
