//! The addresses of every Gateway: what it asks for, what it gets.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::Reason;
use crate::addresses::{Given, Missing, Pool, Refusal, Wish, assign, why_unusable};
use crate::index::{AddressRequest, Gateway, Index, Name};

/// What a Gateway gets.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Sorted.
    pub all: Vec<IpAddr>,
    /// Those that are not the node's own.
    pub exclusive: Vec<IpAddr>,
    /// Accepted, but not fully programmed, and why.
    pub missing: Option<(Reason, String)>,
}

/// Of these Gateways, the first by precedence first.
pub fn of<'a>(index: &'a Index, gateways: &[&'a Gateway]) -> HashMap<&'a Name, Addresses> {
    let (node, addressing) = (&index.node().addresses[..], index.addressing());
    let asked: Vec<Asked> = gateways.iter().map(|gateway| Asked::of(gateway)).collect();
    let wishes: Vec<Wish> = gateways
        .iter()
        .zip(&asked)
        .map(|(gateway, asked)| Wish {
            gateway: &gateway.meta.name,
            fixed: asked.fixed.iter().map(|(_, address)| *address).collect(),
            any: asked.any,
            recorded: addressing.recorded(gateway),
        })
        .collect();
    let there: BTreeSet<&Name> = wishes.iter().map(|wish| wish.gateway).collect();
    let absent = addressing.absent(|name| there.contains(name));
    let given = Given { pool: addressing.pool(), node, absent: &absent, decides: addressing.decides() };
    let assigned = assign(&given, &wishes);
    let of_gateway = |((wish, asked), assigned): ((&Wish<'a>, Asked), crate::addresses::Assigned)| {
        let mut unusable = asked.unusable;
        for (i, address) in &asked.fixed {
            let Some((_, refusal)) = assigned.refused.iter().find(|(refused, _)| refused == address) else { continue };
            unusable.push((*i, format!("{address} {}", why_refused(refusal, given.pool))));
        }
        unusable.sort();
        let unusable: Vec<String> = unusable.iter().map(|(i, why)| format!("spec.addresses[{i}]: {why}")).collect();
        let missing: Vec<String> = assigned.missing.iter().map(|missing| why_missing(missing, given.pool)).collect();
        let missing = if !unusable.is_empty() {
            Some((Reason::AddressNotUsable, [unusable, missing].concat().join("; ")))
        } else if !missing.is_empty() {
            Some((Reason::AddressNotAssigned, missing.join("; ")))
        } else {
            None
        };
        let exclusive = assigned.addresses.iter().copied().filter(|address| !node.contains(address)).collect();
        (wish.gateway, Addresses { all: assigned.addresses, exclusive, missing })
    };
    wishes.iter().zip(asked).zip(assigned).map(of_gateway).collect()
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
            "every {} address of the pool ({}) is taken; give `sluice run` another --address-pool, or remove a Gateway",
            if *v6 { "IPv6" } else { "IPv4" },
            pool.describe(*v6)
        ),
        Missing::NotYet => "the address is not assigned yet".to_owned(),
        Missing::Nothing => "the node has no address to share; give the Gateway one in spec.addresses".to_owned(),
    }
}
