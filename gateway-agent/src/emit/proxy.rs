//! From the IR to the table that the agent's proxy goes by.

#![forbid(unsafe_code)]

use std::sync::Arc;

use hashbrown::HashMap;

use crate::ir::http::{Clients, Security};
use crate::ir::{Ir, TlsMode, Traffic};
use crate::proxy::{Inside, Table, Tls};

/// The table for this IR. `before` is the table before it: a listener whose certificates are the same is taken from there, so
/// that the cost is that of what has changed.
pub fn table(ir: &Arc<Ir>, before: &Table, tls: &Tls) -> Table {
    let mut terminators = HashMap::new();
    let mut old = before.ir().listeners.iter().enumerate().peekable();
    for (i, listener) in ir.listeners.iter().enumerate() {
        while old.next_if(|(_, old)| old.name < listener.name).is_some() {}
        let (certificates, clients, inside) = match &listener.traffic {
            Traffic::Tls { mode: TlsMode::Terminate { certificates }, .. } => {
                (certificates, &Clients::Anonymous, Inside::Anything)
            }
            Traffic::Http(http) => match &http.security {
                Security::Https { certificates, clients } if !certificates.is_empty() => {
                    (certificates, clients, Inside::Http)
                }
                Security::Https { .. } | Security::Http => continue,
            },
            Traffic::Tls { mode: TlsMode::Passthrough, .. } | Traffic::Forward { .. } => continue,
        };
        let same = old.peek().filter(|(_, old)| old.name == listener.name);
        let of_before = same.and_then(|(i, _)| before.terminator(*i));
        terminators.insert(i, tls.terminator(certificates, clients, inside, of_before));
    }
    Table::new(Arc::clone(ir), terminators)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Certificate, Listener};
    use crate::proxy::tests::bed::certificate;
    use crate::proxy::tests::ir::{backends, listener, named};

    fn ending(section: &str, certificates: &[&Arc<Certificate>], route: &str) -> Arc<Listener> {
        let mode = TlsMode::Terminate { certificates: certificates.iter().map(|c| Arc::clone(c)).collect() };
        listener(section, &["198.19.0.1"], mode, vec![named("*", Some(backends(route, vec![])))])
    }

    fn ir(listeners: Vec<Arc<Listener>>) -> Arc<Ir> {
        Arc::new(Ir { listeners, ..Ir::default() })
    }

    #[test]
    fn certificates_that_did_not_change_are_not_read_again() {
        let tls = Tls::new().unwrap();
        let (a, b) = (certificate(&["a.example.com"]), certificate(&["b.example.com"]));
        let first = ir(vec![ending("one", &[&a], "r"), ending("three", &[&a, &b], "r")]);
        let before = table(&first, &Table::default(), &tls);
        // Another route, and a listener more.
        let second =
            ir(vec![ending("one", &[&a], "other"), ending("three", &[&b, &a], "r"), ending("two", &[&a], "r")]);
        let after = table(&second, &before, &tls);
        let same = |i| Arc::ptr_eq(before.terminator(i).unwrap(), after.terminator(i).unwrap());
        assert!(same(0));
        assert!(!same(1), "the first of two comes first");
        assert!(after.terminator(2).is_some());
    }
}
