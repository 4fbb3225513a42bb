//! What the index knows of addresses beside the Gateways themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Pool;
use crate::index::{Gateway, Name};

#[derive(Clone, Debug, Default)]
pub struct Addressing {
    /// Of Gateways that are told of no other.
    pool: Arc<Pool>,
    follows: bool,
    /// What this node has decided, also for Gateways that have gone: one that comes back finds its address, unless somebody needed it.
    decided: BTreeMap<Name, Vec<IpAddr>>,
}

impl Addressing {
    /// This node decides, from what it has decided before.
    pub fn new(pool: Pool, decided: BTreeMap<Name, Vec<IpAddr>>) -> Addressing {
        Addressing { pool: pool.into(), follows: false, decided }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether this node gives out addresses; else it heeds what the status of Gateways says, which another writes.
    pub fn decides(&self) -> bool {
        !self.follows
    }

    /// Who begins to decide goes on from what the status of Gateways says.
    pub fn set_decides(&mut self, decides: bool) {
        if self.follows == decides {
            self.decided.clear();
        }
        self.follows = !decides;
    }

    /// What the Gateway had.
    pub fn recorded<'a>(&'a self, gateway: &'a Gateway) -> &'a [IpAddr] {
        self.decided.get(&gateway.meta.name).map_or(&*gateway.had, Vec::as_slice)
    }

    /// Addresses that only Gateways had that are not there.
    pub fn absent(&self, is_there: impl Fn(&Name) -> bool) -> BTreeSet<IpAddr> {
        self.decided.iter().filter(|(name, _)| !is_there(name)).flat_map(|(_, addresses)| addresses).copied().collect()
    }

    pub fn decided(&self) -> &BTreeMap<Name, Vec<IpAddr>> {
        &self.decided
    }

    /// Takes in which addresses of its pool every Gateway has that is there; says whether that is new.
    pub fn remember<'a>(&mut self, decided: impl Iterator<Item = (&'a Name, &'a [IpAddr])> + Clone) -> bool {
        /// Of Gateways that have gone.
        const MOST: usize = 1_024;
        // Without any pool what was decided with one is kept for when it comes back.
        if self.follows || decided.clone().all(|(_, addresses)| addresses.is_empty()) {
            return false;
        }
        let now: BTreeMap<&Name, Vec<IpAddr>> = decided.map(|(name, addresses)| (name, addresses.to_vec())).collect();
        let held: BTreeSet<IpAddr> = now.values().flatten().copied().collect();
        let mut next: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        for (name, addresses) in self.decided.iter().filter(|(name, _)| !now.contains_key(name)).take(MOST) {
            let free: Vec<IpAddr> = addresses.iter().copied().filter(|address| !held.contains(address)).collect();
            if !free.is_empty() {
                next.insert(name.clone(), free);
            }
        }
        let now = now.into_iter().filter(|(_, addresses)| !addresses.is_empty());
        next.extend(now.map(|(name, addresses)| (name.clone(), addresses)));
        let is_new = next != self.decided;
        self.decided = next;
        is_new
    }
}
