//! TLS listeners: two connections that become one.

mod accept;
mod agent;
mod around;
mod connect;
mod hello;
mod idle;
mod names;
mod prove;
mod race;
mod random;
mod replay;
mod seeds;
mod translate;

use crate::cases::Cases;

pub fn add(cases: &mut Cases) {
    accept::add(cases);
    prove::add(cases);
    hello::add(cases);
    names::add(cases);
    connect::add(cases);
    replay::add(cases);
    translate::add(cases);
    idle::add(cases);
    agent::add(cases);
    around::add(cases);
    race::add(cases);
    random::add(cases);
    seeds::add(cases);
}
