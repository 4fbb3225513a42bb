//! What it costs the kernel to look up a server name: in a hash map, from whose hashes of all the name's ends Sluice takes those that
//! it has names for, and in an LPM trie of reversed names, which finds exact names and wildcards in one step.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie};
use aya::programs::{SchedClassifier, TestRunOptions};
use aya::{Ebpf, TestRun};
use gateway_common::{Address, SNI_NAME, SniKey, SniName, server_name, sni_mode};

use super::super::stats::{Measure, Observation};
use crate::build;

/// The walk over the name and the look-up, less what the bare program costs.
pub const LOOKUP_NS: Measure = Measure::new("lookup_ns", "ns");

/// The names of the test program's functions, and what they are called in the report.
const WAYS: [(&str, &str); 2] = [("by_hash", "sluice"), ("by_trie", "LPM trie")];
const BLANK: &str = "blank";
const REPEAT: u32 = 1_000_000;
const FOUND: u32 = 1;

struct Case {
    scenario: &'static str,
    names: u32,
    wildcard: bool,
}

pub const MANY_EXACT: &str = "look-up of an exact name, 10,000 names";

const CASES: [Case; 4] = [
    Case { scenario: "look-up of an exact name, 10 names", names: 10, wildcard: false },
    Case { scenario: MANY_EXACT, names: 10_000, wildcard: false },
    Case { scenario: "look-up by wildcard, 10 names", names: 10, wildcard: true },
    Case { scenario: "look-up by wildcard, 10,000 names", names: 10_000, wildcard: true },
];

pub fn run(rounds: usize) -> Result<Vec<Observation>> {
    let object = std::fs::read(build::example("name_lookup")?).context("the test program was not built")?;
    let mut observations = Vec::new();
    for case in CASES {
        let mut kernel = Ebpf::load(&object).context("the kernel does not take the test program")?;
        case.fill(&mut kernel)?;
        for round in 0..rounds {
            let blank = run_once(&mut kernel, BLANK)?;
            for (program, contender) in WAYS {
                let value = (run_once(&mut kernel, program)?.as_secs_f64() - blank.as_secs_f64()) * 1e9;
                observations.push(Observation { round, scenario: case.scenario, measure: LOOKUP_NS, contender, value });
            }
        }
    }
    Ok(observations)
}

/// The mean of many runs.
fn run_once(kernel: &mut Ebpf, program: &str) -> Result<Duration> {
    let classifier: &mut SchedClassifier = kernel.program_mut(program).context("no such program")?.try_into()?;
    if classifier.fd().is_err() {
        classifier.load().with_context(|| format!("the kernel does not take the program {program}"))?;
    }
    // It looks at no frame, but must have one.
    let frame = [0; 64];
    let options = TestRunOptions { data_in: Some(&frame), repeat: REPEAT, ..TestRunOptions::new() };
    let result = classifier.test_run(options).with_context(|| format!("cannot run {program}"))?;
    ensure!(result.return_value == FOUND, "{program} did not find the name: nothing is measured");
    Ok(result.duration)
}

impl Case {
    fn name(&self, number: u32) -> String {
        let number = format!("{number:05}");
        if self.wildcard { format!("n{number}.x{number}.bench.example") } else { format!("n{number}.bench.example") }
    }

    /// Both maps with the same names, and the question. Of a wildcard as many as of exact names, each for one name.
    fn fill(&self, kernel: &mut Ebpf) -> Result<()> {
        let (mut hash, mut trie, mut question) = (None, None, None);
        for (name, map) in kernel.maps_mut() {
            match name {
                "HASH" => hash = Some(HashMap::<_, SniKey, SniName>::try_from(map)?),
                "TRIE" => trie = Some(LpmTrie::<_, [u8; 256], u64>::try_from(map)?),
                "QUESTION" => question = Some(Array::<_, [u8; 80]>::try_from(map)?),
                _ => {}
            }
        }
        let (Some(mut hash), Some(mut trie), Some(mut question)) = (hash, trie, question) else {
            bail!("the test program has other maps than this bench knows");
        };
        for number in 0..self.names {
            let name = self.name(number);
            let (name, wildcard) = match name.split_once('.') {
                Some((_, rest)) if self.wildcard => (rest.to_owned(), true),
                _ => (name, false),
            };
            let hashed = server_name::hash(name.as_bytes());
            let key =
                SniKey { address: Address::UNSET, hash: hashed, port: 443, wildcard: wildcard.into(), _pad: [0; 5] };
            hash.insert(key, entry(&name), 0)?;
            // A wildcard stops at the dot before which anything may stand.
            let end = if wildcard { b'.' } else { 0 };
            let mut data = [0; 256];
            let bytes = [0, 0].into_iter().chain(name.bytes().rev()).chain([end]);
            let length = bytes.zip(&mut data).map(|(byte, place)| *place = byte).count();
            trie.insert(&Key::new(length as u32 * 8, data), 1, 0)?;
        }
        // Name, length, where the digits are that are drawn, how many numbers there are, wildcards.
        let name = self.name(0);
        let mut asked = [0; 80];
        asked[..name.len()].copy_from_slice(name.as_bytes());
        let wildcards = if self.wildcard { server_name::wildcard_bit(3) } else { 0 };
        let digits = if self.wildcard { 8 } else { 1 };
        for (word, place) in [name.len() as u32, digits, self.names, wildcards].iter().zip(asked[64..].chunks_mut(4)) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        question.set(0, asked, 0)?;
        Ok(())
    }
}

fn entry(name: &str) -> SniName {
    let mut value = SniName {
        backend_set: 1,
        listener: 1,
        hits: 0,
        mode: sni_mode::PASSTHROUGH,
        _pad: [0; 7],
        name: [0; SNI_NAME],
    };
    value.name[..name.len()].copy_from_slice(name.as_bytes());
    value
}
