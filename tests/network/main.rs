//! Real clients in namespaces, the agent as a real process.

use gateway_tests::client;
use gateway_tests::lab::{Keep, Serving, World, address};

#[test]
fn lab_is_connected() {
    let world = World::new(Keep::UntilDrop).unwrap();
    let _servers: Vec<Serving> =
        world.pods.iter().chain([&world.gateway]).map(|node| Serving::plain(node, 8080).unwrap()).collect();
    for [v4, v6] in [[address::POD_1[0], address::POD_1[1]], address::POD_2, address::NODE] {
        for target in [v4, v6] {
            println!("{:?}", world.client.block_on(|| client::who_tcp((target, 8080).into())).unwrap());
            println!("{:?}", world.client.block_on(|| client::who_udp((target, 8080).into())).unwrap());
        }
    }
    println!("{:?}", client::split_tcp(&world.client, (address::POD_1[0], 8080).into(), 2000));
}
