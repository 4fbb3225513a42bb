//! The tests, by subject.

mod answered;
mod events;
mod fragments;
mod headers;
mod icmp;
mod neighbor;
mod passed;
mod pick;
mod random;
mod refuse;
mod route;
mod splice;
mod sweep;
mod tables;
mod tcp;
mod udp;

use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::lab::Lab;
use crate::net::Version;
use crate::pool::Pool;

pub fn all(pool: &Arc<Pool>) -> Vec<Trial> {
    let mut cases = Cases { pool: pool.clone(), trials: Vec::new() };
    cases.one("object/release_carries_no_trace", no_trace);
    answered::add(&mut cases);
    events::add(&mut cases);
    fragments::add(&mut cases);
    headers::add(&mut cases);
    icmp::add(&mut cases);
    neighbor::add(&mut cases);
    passed::add(&mut cases);
    pick::add(&mut cases);
    random::add(&mut cases);
    refuse::add(&mut cases);
    route::add(&mut cases);
    splice::add(&mut cases);
    sweep::add(&mut cases);
    tables::add(&mut cases);
    tcp::add(&mut cases);
    udp::add(&mut cases);
    cases.trials
}

/// aya-log brings a map of its own, and its cost for every packet: only a debug object has it.
fn no_trace(lab: &mut Lab) -> Result<()> {
    ensure!(!lab.has_map("AYA_LOGS"), "the release object logs");
    Ok(())
}

/// The list of tests that grows.
pub struct Cases {
    pool: Arc<Pool>,
    trials: Vec<Trial>,
}

impl Cases {
    /// A test for both IP versions.
    pub fn each(&mut self, name: &str, case: impl Fn(&mut Lab, Version) -> Result<()> + Clone + Send + 'static) {
        for version in Version::ALL {
            let case = case.clone();
            self.one(&format!("{name}_{version:?}").to_lowercase(), move |lab| case(lab, version));
        }
    }

    pub fn one(&mut self, name: &str, case: impl FnOnce(&mut Lab) -> Result<()> + Send + 'static) {
        let pool = self.pool.clone();
        self.trials.push(Trial::test(name, move || pool.run(case).map_err(Into::into)));
    }
}
