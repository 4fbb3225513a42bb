//! From the IR to the table that the agent's proxy goes by.

#![forbid(unsafe_code)]

use std::sync::Arc;

use hashbrown::HashMap;

use crate::ir::{Ir, TlsMode, Traffic};
use crate::proxy::{Table, Tls};

/// The table for this IR. `before` is the table before it: a listener whose certificates are the same is taken from there, so
/// that the cost is that of what has changed.
pub fn table(ir: &Arc<Ir>, before: &Table, tls: &Tls) -> Table {
    let mut terminators = HashMap::new();
    let mut old = before.ir().listeners.iter().enumerate().peekable();
    for (i, listener) in ir.listeners.iter().enumerate() {
        while old.next_if(|(_, old)| old.name < listener.name).is_some() {}
        let Traffic::Tls { mode: TlsMode::Terminate { certificates }, .. } = &listener.traffic else { continue };
        let same = old.peek().filter(|(_, old)| old.name == listener.name);
        let of_before = same.and_then(|(i, _)| before.terminator(*i));
        terminators.insert(i, tls.terminator(certificates, of_before));
    }
    Table::new(Arc::clone(ir), terminators)
}
