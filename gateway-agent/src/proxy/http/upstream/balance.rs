//! Which backend of a rule, and which endpoint of a backend.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gateway_common::hash::mix;
use hashbrown::HashMap;
use tokio::time::Instant;

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

/// An endpoint that takes no connection is left alone for this long, twice as long after each further refusal.
const EJECTED: Duration = Duration::from_secs(1);
const EJECTED_AT_MOST: Duration = Duration::from_secs(30);
/// Endpoints or services that are known before those without a request are forgotten.
const KNOWN: usize = 256;

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

/// Of those that serve and were not tried, and of these one that takes connections, if there is one. `None`: all were tried, or none serves.
pub fn endpoint<'a>(
    (cluster, endpoints): (&Cluster, &'a [Endpoint]),
    loads: &Loads,
    random: u64,
    tried: &[SocketAddr],
) -> Option<&'a Endpoint> {
    let takes = |endpoint: &Endpoint| serves(endpoint, tried) && !loads.is_ejected(address(endpoint));
    let found = match cluster.balance {
        Balance::LeastRequest => {
            let one = by_chance(endpoints, random, takes);
            let other = by_chance(endpoints, mix(random), takes);
            one.into_iter().chain(other).min_by_key(|endpoint| loads.of(address(endpoint)))
        }
        Balance::RoundRobin => {
            let (before, from) = endpoints.split_at(loads.turn(&cluster.service, endpoints.len(), random));
            from.iter().chain(before).find(|endpoint| takes(endpoint))
        }
    };
    // All of them refuse connections: one of them may not any more.
    found.or_else(|| by_chance(endpoints, random, |endpoint| serves(endpoint, tried)))
}

/// The endpoint of this address, while it serves.
pub fn at(endpoints: &[Endpoint], wanted: SocketAddr) -> Option<&Endpoint> {
    endpoints.iter().find(|endpoint| address(endpoint) == wanted && serves(endpoint, &[]))
}

fn serves(endpoint: &Endpoint, tried: &[SocketAddr]) -> bool {
    endpoint.duty == Duty::Serving && (tried.is_empty() || !tried.contains(&address(endpoint)))
}

/// Each that will do is as likely as the others.
fn by_chance(endpoints: &[Endpoint], mut random: u64, will_do: impl Fn(&Endpoint) -> bool) -> Option<&Endpoint> {
    /// Nearly all of them will do nearly always.
    const GUESSES: usize = 4;
    for _ in 0..GUESSES {
        let guess = endpoints.get(reduce(random, endpoints.len() as u64) as usize)?;
        if will_do(guess) {
            return Some(guess);
        }
        random = mix(random);
    }
    let will_do = || endpoints.iter().filter(|endpoint| will_do(endpoint));
    will_do().nth(reduce(random, will_do().count() as u64) as usize)
}

pub fn address(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.address, endpoint.port)
}

/// Maps 64 random bits onto `0..n`.
fn reduce(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// What this worker knows of endpoints: requests under way, and whether they take connections.
#[derive(Debug, Default)]
pub struct Loads {
    endpoints: RefCell<HashMap<SocketAddr, Rc<State>>>,
    /// By service, whose turn it is.
    turns: RefCell<HashMap<Arc<str>, usize>>,
}

#[derive(Debug, Default)]
struct State {
    requests: Cell<u32>,
    /// Connections that were refused, since the last that was not.
    refusals: Cell<u32>,
    ejected: Cell<Option<Instant>>,
}

impl Loads {
    fn of(&self, endpoint: SocketAddr) -> u32 {
        self.endpoints.borrow().get(&endpoint).map_or(0, |state| state.requests.get())
    }

    fn is_ejected(&self, endpoint: SocketAddr) -> bool {
        // The clock is only asked where it matters.
        let until = self.endpoints.borrow().get(&endpoint).and_then(|state| state.ejected.get());
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Workers begin with different ones.
    fn turn(&self, service: &Arc<str>, endpoints: usize, random: u64) -> usize {
        let count = endpoints.max(1);
        let mut turns = self.turns.borrow_mut();
        if let Some(turn) = turns.get_mut(service) {
            *turn = (*turn + 1) % count;
            return *turn;
        }
        if turns.len() >= KNOWN && turns.len() == turns.capacity() {
            // They begin anew, at any.
            turns.clear();
        }
        let turn = reduce(random, count as u64) as usize;
        turns.insert(Arc::clone(service), turn);
        turn
    }

    /// A request begins; it ends with the ticket.
    pub fn begin(&self, endpoint: SocketAddr) -> Ticket {
        let mut endpoints = self.endpoints.borrow_mut();
        if endpoints.len() >= KNOWN && endpoints.len() == endpoints.capacity() {
            endpoints.retain(|_, state| state.requests.get() > 0 || state.ejected.get().is_some());
        }
        let state = endpoints.entry(endpoint).or_default();
        state.requests.set(state.requests.get() + 1);
        Ticket(Rc::clone(state))
    }
}

/// A request that is under way to an endpoint.
#[derive(Debug)]
pub struct Ticket(Rc<State>);

impl Ticket {
    /// The endpoint took no connection.
    pub fn refused(&self) {
        let refusals = self.0.refusals.get();
        let time = EJECTED.saturating_mul(1 << refusals.min(8)).min(EJECTED_AT_MOST);
        self.0.refusals.set(refusals + 1);
        self.0.ejected.set(Some(Instant::now() + time));
    }

    /// The endpoint took a connection.
    pub fn accepted(&self) {
        self.0.refusals.set(0);
        self.0.ejected.set(None);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
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

    fn cluster(balance: Balance) -> Cluster {
        Cluster { service: "default/a:80".into(), application: Application::Http, balance, tls: None }
    }

    fn endpoints(endpoints: &[&str]) -> Vec<Endpoint> {
        endpoints.iter().map(|address| an_endpoint(address)).collect()
    }

    #[test]
    fn of_two_endpoints_the_less_loaded_is_taken() {
        let endpoints = endpoints(&["198.18.0.1:80", "198.18.0.2:80"]);
        let to = (&cluster(Balance::LeastRequest), &endpoints[..]);
        let loads = Loads::default();
        let busy = [(); 3].map(|()| loads.begin(address(&endpoints[0])));
        let first = || (0..1_000).filter(|i| endpoint(to, &loads, mix(*i), &[]) == Some(&endpoints[0])).count();
        assert!((150..350).contains(&first()), "only where both choices fall on it");
        drop(busy);
        assert!((400..600).contains(&first()));
        assert_eq!(endpoint(to, &loads, 1, &[address(&endpoints[0])]), Some(&endpoints[1]));
        let both: Vec<SocketAddr> = endpoints.iter().map(address).collect();
        assert_eq!(endpoint(to, &loads, 1, &both), None);
    }

    #[test]
    fn each_endpoint_has_its_turn() {
        let endpoints = endpoints(&["198.18.0.1:80", "198.18.0.2:80", "198.18.0.3:80"]);
        let (cluster, loads) = (cluster(Balance::RoundRobin), Loads::default());
        let of = |endpoints, random| endpoint((&cluster, endpoints), &loads, random, &[]);
        let picks: Vec<&Endpoint> = (0..6).filter_map(|i| of(&endpoints, mix(i))).collect();
        assert_eq!(picks[..3], picks[3..]);
        assert!(endpoints.iter().all(|endpoint| picks[..3].contains(&endpoint)));
        // Fewer of them than the turn that it was.
        assert!(of(&endpoints[..1], 1).is_some());
        assert_eq!(of(&[], 1), None);
    }

    /// As if this time had gone by.
    fn wait(loads: &Loads, time: Duration) {
        for state in loads.endpoints.borrow().values() {
            state.ejected.set(state.ejected.get().map(|until| until - time));
        }
    }

    #[test]
    fn an_endpoint_that_refuses_is_left_alone_for_a_while() {
        for balance in [Balance::LeastRequest, Balance::RoundRobin] {
            let endpoints = endpoints(&["198.18.0.1:80", "198.18.0.2:80"]);
            let to = (&cluster(balance), &endpoints[..]);
            let loads = Loads::default();
            let first = address(&endpoints[0]);
            let picked = || (0..100).any(|i| endpoint(to, &loads, mix(i), &[]).is_some_and(|e| address(e) == first));
            assert!(picked());
            for seconds in [1, 2, 4] {
                loads.begin(first).refused();
                wait(&loads, Duration::from_millis(seconds * 1_000 - 500));
                assert!(!picked(), "{seconds} s");
                wait(&loads, Duration::from_millis(500));
                assert!(picked(), "{seconds} s");
            }
            loads.begin(first).accepted();
            loads.begin(first).refused();
            wait(&loads, EJECTED);
            assert!(picked(), "the count began anew");
            endpoints.iter().for_each(|endpoint| loads.begin(address(endpoint)).refused());
            assert!(picked(), "rather than none");
        }
    }

    #[test]
    fn endpoints_without_requests_are_forgotten() {
        let loads = Loads::default();
        let kept = loads.begin("198.18.0.1:1".parse().unwrap());
        for i in 0..100_000_u32 {
            let ip = std::net::Ipv4Addr::from(0xc612_0000 + i);
            drop(loads.begin((ip, 80).into()));
        }
        assert!(loads.endpoints.borrow().len() < 4 * KNOWN);
        assert_eq!(loads.of("198.18.0.1:1".parse().unwrap()), 1);
        drop(kept);
    }
}
