//! `sluice`, the agent and its command line.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    gateway_agent::cli::main()
}
