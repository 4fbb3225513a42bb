//! What the programs print about each packet. Only objects built with the feature `trace` have anything to say.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// Reads what the programs have printed.
pub struct Trace(EbpfLogger<ToTracing>);

impl Trace {
    /// `None`: the object is a release object.
    pub fn of(ebpf: &mut Ebpf) -> Option<Trace> {
        EbpfLogger::init_with_logger(ebpf, ToTracing).ok().map(Trace)
    }

    /// Passes on what has come since the last call.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::info!(program = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}
