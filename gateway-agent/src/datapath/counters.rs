//! Counters, summed over the CPUs.

use std::io;
use std::sync::Arc;

use gateway_common::{Counter, Reason, reason::REASONS};

use super::maps::Maps;

/// Reads counters; may be sent to another thread.
#[derive(Clone)]
pub struct Counters(pub(super) Arc<Maps>);

impl Counters {
    pub fn listener(&self, id: u32) -> io::Result<Counter> {
        Ok(sum(&self.0.listener_counters.read_per_cpu(id, 1, self.0.cpus)?))
    }

    pub fn backend(&self, id: u32) -> io::Result<Counter> {
        Ok(sum(&self.0.backend_counters.read_per_cpu(id, 1, self.0.cpus)?))
    }

    /// Packets refused or dropped, by reason.
    pub fn drops(&self) -> io::Result<Vec<(Reason, u64)>> {
        let values = self.0.drops.read_per_cpu(0, REASONS as u32, self.0.cpus)?;
        let of = |reason: Reason| {
            let first = reason as usize * self.0.cpus;
            values[first..first + self.0.cpus].iter().sum()
        };
        Ok(Reason::ALL.iter().map(|reason| (*reason, of(*reason))).collect())
    }

    /// Events that found the ring buffer full.
    pub fn events_lost(&self) -> io::Result<u64> {
        Ok(self.0.events_lost.read_per_cpu(0, 1, self.0.cpus)?.iter().sum())
    }

    /// Bytes of kernel memory of every map.
    pub fn memory(&self) -> io::Result<Vec<(&'static str, u64)>> {
        self.0.memory()
    }

    /// Slots of HELLOS.
    pub fn hello_capacity(&self) -> u32 {
        self.0.hellos.entries()
    }

    /// Entries that FLOWS can hold, two a connection.
    pub fn flow_capacity(&self) -> u32 {
        self.0.flows.entries()
    }
}

fn sum(values: &[Counter]) -> Counter {
    values.iter().fold(Counter::default(), |a, b| Counter {
        picked: a.picked + b.picked,
        established: a.established + b.established,
        closed: a.closed + b.closed,
        refused: a.refused + b.refused,
        packets_in: a.packets_in + b.packets_in,
        bytes_in: a.bytes_in + b.bytes_in,
        packets_out: a.packets_out + b.packets_out,
        bytes_out: a.bytes_out + b.bytes_out,
    })
}
