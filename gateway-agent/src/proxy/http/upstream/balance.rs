//! Which backend of a rule, and which endpoint of a backend.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use gateway_common::hash::mix;
use hashbrown::HashMap;

use crate::ir::http::{Backend, Cluster};
use crate::ir::{Duty, Endpoint};

/// How the endpoints of a backend share its requests. Each worker goes by its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balance {
    /// The less loaded of two by chance.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
}

/// By weight; `None`: all of them have the weight 0, or there are none.
pub fn backend(backends: &[Backend], random: u64) -> Option<&Backend> {
    if let [only] = backends {
        return Some(only).filter(|only| only.weight > 0);
    }
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut left = reduce(random, total);
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let taken = left < weight;
        left = left.wrapping_sub(weight);
        taken
    })
}

/// The less loaded of two by chance, of those that serve and were not tried. `None`: there is none.
pub fn endpoint<'a>(cluster: &'a Cluster, loads: &Loads, random: u64, tried: &[SocketAddr]) -> Option<&'a Endpoint> {
    let serving = || {
        let endpoints = cluster.endpoints.iter().filter(|endpoint| endpoint.duty == Duty::Serving);
        endpoints.filter(|endpoint| tried.is_empty() || !tried.contains(&address(endpoint)))
    };
    let count = serving().count() as u64;
    let one = serving().nth(reduce(random, count) as usize)?;
    let other = serving().nth(reduce(mix(random), count) as usize)?;
    Some(if loads.of(address(other)) < loads.of(address(one)) { other } else { one })
}

pub fn address(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.address, endpoint.port)
}

/// Maps 64 random bits onto `0..n`.
fn reduce(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// Requests under way of this worker, by endpoint.
#[derive(Debug, Default)]
pub struct Loads(RefCell<HashMap<SocketAddr, Rc<Cell<u32>>>>);

impl Loads {
    fn of(&self, endpoint: SocketAddr) -> u32 {
        self.0.borrow().get(&endpoint).map_or(0, |load| load.get())
    }

    /// A request begins; it ends with the ticket.
    pub fn begin(&self, endpoint: SocketAddr) -> Ticket {
        let mut loads = self.0.borrow_mut();
        let load = loads.entry(endpoint).or_default();
        load.set(load.get() + 1);
        Ticket(Rc::clone(load))
    }
}

#[derive(Debug)]
pub struct Ticket(Rc<Cell<u32>>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::http::{Application, Target};
    use crate::proxy::tests::ir::endpoint as an_endpoint;

    #[test]
    fn backends_are_picked_by_weight() {
        let backends: Vec<Backend> =
            [1, 0, 3].map(|weight| Backend { weight, filters: Vec::new(), target: Target::Invalid }).into();
        let mut picks = [0; 4];
        for i in 0..10_000 {
            picks[backend(&backends, mix(i)).unwrap().weight as usize] += 1;
        }
        assert_eq!((picks[0], picks[2]), (0, 0));
        assert!((2_300..2_700).contains(&picks[1]), "{picks:?}");
        assert!(backend(&backends[1..2], 7).is_none());
        assert!(backend(&[], 7).is_none());
    }

    #[test]
    fn of_two_endpoints_the_less_loaded_is_taken() {
        let endpoints = ["198.18.0.1:80", "198.18.0.2:80"].map(an_endpoint);
        let cluster = Cluster {
            service: "default/a:80".into(),
            endpoints: endpoints.clone().into(),
            application: Application::Http,
            balance: Balance::LeastRequest,
            tls: None,
        };
        let loads = Loads::default();
        let busy = [(); 3].map(|()| loads.begin(address(&endpoints[0])));
        let first = || (0..1_000).filter(|i| endpoint(&cluster, &loads, mix(*i), &[]) == Some(&endpoints[0])).count();
        assert!((150..350).contains(&first()), "only where both choices fall on it");
        drop(busy);
        assert!((400..600).contains(&first()));
        assert_eq!(endpoint(&cluster, &loads, 1, &[address(&endpoints[0])]), Some(&endpoints[1]));
        assert_eq!(endpoint(&cluster, &loads, 1, &endpoints.each_ref().map(address)), None);
    }
}
