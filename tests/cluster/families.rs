//! Clients of both IP versions.

use std::net::IpAddr;
use std::time::Duration;

use crate::bed::Bed;
use crate::traffic::{ALL, Site};

#[test]
fn a_gateway_has_an_address_of_each_ip_version_and_clients_of_both_reach_it() {
    let bed = Bed::new();
    let mut site = Site::new(&bed, "families");
    let line = "get gateway edge -n families -o jsonpath={.status.addresses[*].value}";
    let addresses: Vec<IpAddr> =
        bed.kubectl(line).unwrap().split_whitespace().map(|address| address.parse().unwrap()).collect();
    assert_eq!(addresses.iter().map(IpAddr::is_ipv6).collect::<Vec<_>>(), [false, true], "{addresses:?}");
    for address in addresses {
        site.address = address;
        ALL.into_iter().for_each(|way| bed.wait_for(&format!("{way} at {address}"), || site.ask(way)));
        let traffic = site.traffic();
        std::thread::sleep(Duration::from_secs(1));
        traffic.end().assert_all_answered(&ALL);
    }
}
