//! The demo's client: commands as a user types them, shown with what they say.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use gateway_tests::lab::World;
use tabled::Tabled;

use crate::examples::Examples;

pub struct Client<'a> {
    pub world: &'a World,
    pub examples: &'a Examples,
}

impl Client<'_> {
    /// A command on the client that trusts the demo's authority.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let (program, arguments) = words.split_first().context("an empty command")?;
        let mut command = self.world.client.command(program);
        command.args(arguments).env("CURL_CA_BUNDLE", self.examples.ca()).env("SSL_CERT_FILE", self.examples.ca());
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Shows a command and what it says.
    pub fn typed(&self, words: &[&str]) -> Result<String> {
        println!("client# {}", words.join(" "));
        let output = self.command(words)?.output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{}` ended with {}: {}", words.join(" "), output.status, error.trim_end());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(!text.trim().is_empty(), "`{}` said nothing", words.join(" "));
        print!("{text}");
        Ok(text)
    }

    /// The same for a command that fails.
    pub fn refused(&self, words: &[&str]) -> Result<String> {
        println!("client# {}", words.join(" "));
        let output = self.command(words)?.output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "`{}` should have failed", words.join(" "));
        print!("{text}");
        Ok(text)
    }
}

#[derive(Tabled)]
pub struct Share {
    backend: &'static str,
    #[tabled(rename = "wanted %")]
    wanted: u32,
    #[tabled(rename = "measured %")]
    measured: String,
    answers: usize,
}

/// Who answered how many of so many, by the first word of each line: nine in ten the first, one in ten the second.
pub fn share_of_ten(text: &str, backends: [&'static str; 2], all: usize) -> Result<Vec<Share>> {
    let share = |(backend, wanted): (&'static str, u32)| {
        let answers = text.lines().filter(|line| line.split(' ').next() == Some(backend)).count();
        let percent = 100.0 * answers as f64 / all as f64;
        Share { backend, wanted, measured: format!("{percent:.1}"), answers }
    };
    let shares = [share((backends[0], 90)), share((backends[1], 10))];
    let answered: usize = shares.iter().map(|share| share.answers).sum();
    ensure!(answered == all, "{answered} of {all} were answered");
    // Five standard deviations of a fair draw.
    let tolerance = 5.0 * (0.1 * 0.9 * all as f64).sqrt();
    let canary = shares[1].answers as f64;
    ensure!((canary - 0.1 * all as f64).abs() <= tolerance, "the canary got {canary} of {all}");
    Ok(shares.into())
}
