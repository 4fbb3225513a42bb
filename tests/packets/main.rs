//! Frames through the programs by BPF_PROG_TEST_RUN: what goes in, what comes out, and what the maps say after it.

mod lab;
mod net;
mod outcome;
mod packet;
fn main(){}
