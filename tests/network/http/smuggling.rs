//! The corpus of tests/smuggling through kernel and agent, as `cargo xtask smuggling` plays it.

use gateway_tests::lab::{Agent, address};
use gateway_tests::smuggling::{Place, Verdict};

const PORT: u16 = 8000;

#[test]
fn no_case_of_the_corpus_is_read_in_two_ways() {
    let place = Place::new().unwrap();
    let manifests = Place::manifests(PORT).unwrap();
    let _agent = Agent::start(&place.world.gateway, manifests.path()).unwrap();
    let played = place.play(address::GATEWAY[0], PORT, PORT).unwrap();
    let wrong: Vec<String> = played
        .iter()
        .filter(|(_, outcome)| outcome.verdict != Verdict::Wanted)
        .map(|(case, outcome)| format!("{:?} {}: {outcome}", outcome.verdict, case.name))
        .collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), played.len(), wrong.join("\n"));
}
