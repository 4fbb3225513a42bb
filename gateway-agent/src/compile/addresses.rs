//! The addresses of every Gateway: what it asks for, what it gets.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::Reason;
use crate::addresses::{Assigned, Given, Missing, Pool, Refusal, Wish, assign, why_unusable};
use crate::index::{AddressRequest, Gateway, Index, Name};

/// What a Gateway gets.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Sorted.
    pub all: Vec<IpAddr>,
    /// Those that its pool has.
    pub of_pool: Vec<IpAddr>,
    /// Those that are not the node's own.
    pub exclusive: Vec<IpAddr>,
    /// Accepted, but not fully programmed, and why.
    pub missing: Option<(Reason, String)>,
}

/// Of these Gateways with their pools, the first by precedence first.
pub fn of<'a>(index: &'a Index, gateways: &[(&'a Gateway, Arc<Pool>)]) -> HashMap<&'a Name, Addresses> {
    let (node, addressing) = (&index.node().addresses[..], index.addressing());
    let asked: Vec<Asked> = gateways.iter().map(|(gateway, _)| Asked::of(gateway)).collect();
    let wishes: Vec<Wish> = gateways
        .iter()
        .zip(&asked)
        .map(|((gateway, pool), asked)| Wish {
            gateway: &gateway.meta.name,
            pool,
            fixed: asked.fixed.iter().map(|(_, address)| *address).collect(),
            any: asked.any,
            recorded: addressing.recorded(gateway),
        })
        .collect();
    let there: BTreeSet<&Name> = wishes.iter().map(|wish| wish.gateway).collect();
    let absent = addressing.absent(|name| there.contains(name));
    let given = Given { node, absent: &absent, decides: addressing.decides() };
    let assigned = assign(&given, &wishes);
    let of_gateway = |((wish, asked), assigned): ((&Wish, Asked), Assigned)| {
        let mut unusable = asked.unusable;
        for (i, address) in &asked.fixed {
            let Some((_, refusal)) = assigned.refused.iter().find(|(refused, _)| refused == address) else { continue };
            unusable.push((*i, format!("{address} {}", why_refused(refusal, wish.pool))));
        }
        unusable.sort();
        let unusable: Vec<String> = unusable.iter().map(|(i, why)| format!("spec.addresses[{i}]: {why}")).collect();
        let missing: Vec<String> = assigned.missing.iter().map(|missing| why_missing(missing, wish.pool)).collect();
        let missing = if !unusable.is_empty() {
            Some((Reason::AddressNotUsable, [unusable, missing].concat().join("; ")))
        } else if !missing.is_empty() {
            Some((Reason::AddressNotAssigned, missing.join("; ")))
        } else {
            None
        };
        let exclusive = assigned.addresses.iter().copied().filter(|address| !node.contains(address)).collect();
        let of_pool = assigned.addresses.iter().copied().filter(|address| wish.pool.has(*address)).collect();
        Addresses { all: assigned.addresses, of_pool, exclusive, missing }
    };
    let lots = wishes.iter().zip(asked).zip(assigned).map(of_gateway);
    gateways.iter().map(|(gateway, _)| &gateway.meta.name).zip(lots).collect()
}

/// `spec.addresses`, with the places of what stands there.
struct Asked {
    fixed: Vec<(usize, IpAddr)>,
    any: bool,
    unusable: Vec<(usize, String)>,
}

impl Asked {
    fn of(gateway: &Gateway) -> Asked {
        let mut asked = Asked { fixed: Vec::new(), any: gateway.addresses.is_empty(), unusable: Vec::new() };
        for (i, request) in gateway.addresses.iter().enumerate() {
            match request {
                AddressRequest::Address(address) => match why_unusable(address) {
                    Some(why) => asked.unusable.push((i, format!("{address} {why}"))),
                    None => asked.fixed.push((i, *address)),
                },
                AddressRequest::Any => asked.any = true,
                AddressRequest::NotAnAddress(value) => {
                    asked.unusable.push((i, format!("\"{value}\" is no IPv4 or IPv6 address; correct or remove it")));
                }
                // The Gateway is refused.
                AddressRequest::Type(..) => {}
            }
        }
        asked
    }
}

fn why_refused(refusal: &Refusal, pool: &Pool) -> String {
    match refusal {
        Refusal::NotInPool => {
            format!("is in no address pool ({pool}); choose one of these, or leave the value out to have one assigned")
        }
        Refusal::Held(other) => format!("was assigned to Gateway {other}, which keeps it; choose another"),
    }
}

fn why_missing(missing: &Missing, pool: &Pool) -> String {
    match missing {
        Missing::Exhausted { v6 } => format!(
            "every {} address of the pool ({}) is taken; add to it (--address-pool of the agents, or spec.addressPool of the SluiceConfig), or \
             remove a Gateway",
            if *v6 { "IPv6" } else { "IPv4" },
            pool.describe(*v6)
        ),
        Missing::NotYet => "the address is not assigned yet".to_owned(),
        Missing::Nothing => "the node has no address to share; give the Gateway one in spec.addresses".to_owned(),
    }
}
