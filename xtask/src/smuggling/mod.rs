//! `cargo xtask smuggling`: the corpus of tests/smuggling against the agent, nginx and haproxy as they are, and where they differ.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use gateway_tests::lab::{Agent, Process, address, wait_for};
use gateway_tests::smuggling::{Case, Outcome, Place, TABLES, Verdict};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Style, Width};

use crate::bench::rendered;
use crate::setup::{self, Part};
use crate::{build, shell};

/// Of the first table; each has the next one.
const PORT: u16 = 8000;
const H2_PORT: u16 = 8100;

#[derive(clap::Args)]
pub struct Options {
    /// Only these contenders.
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Also the cases that everybody answers as wanted.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Contender {
    Sluice,
    Nginx,
    Haproxy,
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(setup::is_root(), "network namespaces need root: run `sudo cargo xtask smuggling`");
    let contenders = match &options.contenders[..] {
        [] => Contender::value_variants(),
        some => some,
    };
    setup::ensure(&[Part::Lab, Part::Bench])?;
    if contenders.contains(&Contender::Sluice) {
        build::sluice(false)?;
    }
    let place = Place::new()?;
    let mut columns = Vec::new();
    for contender in contenders {
        let step = shell::Step::begin(&format!("{contender:?}"));
        let played = contender.play(&place);
        step.end(&played);
        columns.push(played?);
    }
    show(contenders, &columns, options.all);
    let sluice = contenders.iter().zip(&columns).find(|(contender, _)| **contender == Contender::Sluice);
    let wrong = sluice.map_or(0, |(_, column)| count(column, |verdict| verdict != Verdict::Wanted));
    ensure!(wrong == 0, "Sluice does not answer {wrong} cases as wanted");
    Ok(())
}

impl Contender {
    fn play(self, place: &Place) -> Result<Vec<(Case, Outcome)>> {
        let node = &place.world.gateway;
        match self {
            Contender::Sluice => {
                let manifests = Place::manifests(PORT)?;
                let _agent = Agent::start(node, manifests.path())?;
                place.play(address::GATEWAY[0], PORT, PORT)
            }
            Contender::Nginx => {
                let configuration = rendered(&each(include_str!("peers/nginx.conf")), &[], ".conf")?;
                let mut nginx = node.command("unshare");
                nginx.args(["--pid", "--fork", "--kill-child=KILL", "nginx", "-e", "stderr", "-c"]);
                nginx.arg(configuration.path());
                let process = node.spawn("nginx", nginx)?;
                at_proxy(place, process)
            }
            Contender::Haproxy => {
                let configuration = rendered(&each(include_str!("peers/haproxy.cfg")), &[], ".cfg")?;
                let mut haproxy = node.command("haproxy");
                haproxy.arg("-db").arg("-f").arg(configuration.path());
                at_proxy(place, node.spawn("haproxy", haproxy)?)
            }
        }
    }
}

/// A configuration whose part between `{{each}}` and `{{end}}` is there once a table.
fn each(template: &str) -> String {
    let (before, rest) = template.split_once("{{each}}\n").unwrap_or((template, ""));
    let (part, after) = rest.split_once("{{end}}\n").unwrap_or((rest, ""));
    let tables = Place::backends().into_iter().zip(0..TABLES).map(|(backend, i)| {
        part.replace("{{table}}", &i.to_string())
            .replace("{{backend}}", &backend.to_string())
            .replace("{{listen}}", &format!("{}:{}", node_address(), PORT + i))
            .replace("{{listen_h2}}", &format!("{}:{}", node_address(), H2_PORT + i))
    });
    [before, &tables.collect::<String>(), after].concat()
}

fn node_address() -> IpAddr {
    address::NODE[0]
}

fn at_proxy(place: &Place, mut process: Process) -> Result<Vec<(Case, Outcome)>> {
    wait_for("its last port", Duration::from_secs(10), || {
        if let Some(status) = process.ended()? {
            return Ok(Err(anyhow::anyhow!("it ended with {status}:\n{}", process.log())));
        }
        let open = place.world.gateway.run(&format!("ss -Hltn sport = :{}", H2_PORT + TABLES - 1))?;
        if open.is_empty() { bail!("it is closed:\n{}", process.log()) } else { Ok(Ok(())) }
    })??;
    place.play(node_address(), PORT, H2_PORT).with_context(|| process.log())
}

fn show(contenders: &[Contender], columns: &[Vec<(Case, Outcome)>], all: bool) {
    let mut builder = Builder::default();
    builder.push_record(
        ["case".to_owned()].into_iter().chain(contenders.iter().map(|contender| format!("{contender:?}"))),
    );
    for (i, (case, _)) in columns.first().into_iter().flatten().enumerate() {
        let outcomes: Vec<&Outcome> = columns.iter().filter_map(|column| Some(&column.get(i)?.1)).collect();
        if all || outcomes.iter().any(|outcome| outcome.verdict != Verdict::Wanted) {
            let cell = |outcome: &Outcome| match outcome.verdict {
                Verdict::Wanted => format!("✓ {outcome}"),
                Verdict::Other => format!("~ {outcome}"),
                Verdict::Taken => format!("! {outcome}"),
                Verdict::Unsafe => format!("✗ {outcome}"),
            };
            builder.push_record([case.name.clone()].into_iter().chain(outcomes.into_iter().map(cell)));
        }
    }
    let mut table = builder.build();
    table.with(Style::sharp()).modify(Columns::new(..), Width::wrap(60));
    println!("{table}");
    println!(
        "✓ a safe answer that the case has  ~ another one  ! taken where it is to be refused  ✗ a request that was hidden in another, or \
         what is no plain HTTP, got through"
    );
    for (contender, column) in contenders.iter().zip(columns) {
        let of = |wanted: Verdict| count(column, |verdict| verdict == wanted);
        let verdicts = [Verdict::Wanted, Verdict::Other, Verdict::Taken, Verdict::Unsafe];
        let [wanted, other, taken, harmful] = verdicts.map(of);
        let cases = column.len();
        println!(
            "{contender:?}: of {cases} cases {wanted} as wanted, {other} in another way, {taken} taken, {harmful} harmful"
        );
    }
}

fn count(column: &[(Case, Outcome)], of: impl Fn(Verdict) -> bool) -> usize {
    column.iter().filter(|(_, outcome)| of(outcome.verdict)).count()
}
