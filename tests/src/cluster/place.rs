//! A place: network, mount, PID and UTS namespaces that go, with everything that runs in them, when their first process does.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::life::Life;
use crate::lab::{Node, wait_for};

/// Says so when the namespaces are ready, then takes in orphans for as long as it lives: it is the first process.
const STAY: &str = "echo ready; sleep infinity & while :; do wait; done";

pub struct Place {
    name: String,
    life: Life,
}

impl Place {
    /// Makes the namespaces, lets `record` write down whose they are, and only then runs `prepare`, a shell script, in them. If we die
    /// before they are recorded they go too.
    pub fn new(name: &str, prepare: &str, record: impl FnOnce(&Life) -> Result<()>) -> Result<Place> {
        let mut command = Command::new("setsid");
        command.args([
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
        ]);
        command.arg(format!("read -r go || exit 1\nset -e\nhostname {name}\n{prepare}\n{STAY}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut outer = command.spawn().context("cannot start `unshare`; see `cargo xtask setup`")?;
        let (mut stdin, stdout) = (outer.stdin.take().context("no input")?, outer.stdout.take().context("no output")?);
        let life = first_child(&mut outer)
            .with_context(|| format!("the namespaces of {name} were not made (root is needed)"))?;
        record(&life)?;
        writeln!(stdin, "go").with_context(|| format!("{name} does not listen"))?;
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        if ready.trim() != "ready" {
            let output = outer.wait_with_output()?;
            bail!("{name} was not made: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(Place { name: name.to_owned(), life })
    }

    /// A place of an earlier run, if it still lives.
    pub fn of(name: &str, life: Life) -> Option<Place> {
        life.is_there().then(|| Place { name: name.to_owned(), life })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn life(&self) -> &Life {
        &self.life
    }

    fn pid(&self) -> u32 {
        self.life.pid()
    }

    /// A command in the namespaces, on our terminal, with our environment and in our working directory.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--pid", "--uts", "--wd=.", "--target", &self.pid().to_string(), "--"]);
        command.arg(program);
        command
    }

    /// Starts a process that stays; its output goes to a file.
    pub fn start(&self, log: &Path, program: &Path, arguments: &[String]) -> Result<()> {
        let inside = self.command(program);
        let mut command = Command::new("setsid");
        command.arg(inside.get_program()).args(inside.get_args()).args(arguments);
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        drop(file);
        let append = || OpenOptions::new().append(true).open(log);
        command.stdin(Stdio::null()).stdout(append()?).stderr(append()?);
        // Nobody waits for it: it ends with the place.
        command.spawn().with_context(|| format!("cannot start {} in {}", program.display(), self.name))?;
        Ok(())
    }

    /// Runs a command to its end, for its standard output.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Result<String> {
        let output = self.command(program).args(arguments).stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "`{} {}` in {} ended with {}:\n{}",
            program.display(),
            arguments.join(" "),
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The process of this name, as the place's own numbers have it.
    pub fn process(&self, name: &str) -> Result<Option<String>> {
        // It fails if there is none.
        let output = self.command("pgrep").args(["--exact", name]).output().context("cannot run pgrep")?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned))
    }

    /// Kills the process of this name, to its end.
    pub fn kill(&self, name: &str) -> Result<()> {
        let pid = self.process(name)?.with_context(|| format!("{} has no {name}", self.name))?;
        self.run("kill".as_ref(), &["-KILL", &pid])?;
        wait_for(&format!("the end of {name} in {}", self.name), Duration::from_secs(30), || {
            ensure!(self.run("kill".as_ref(), &["-0", &pid]).is_err(), "process {pid} is still there");
            Ok(())
        })
    }

    /// Its network, to enter with sockets and to lay links in.
    pub fn network(&self) -> Result<Node> {
        Node::adopt(&self.name, self.pid())
    }
}

/// The process that `unshare` forks.
fn first_child(outer: &mut Child) -> Result<Life> {
    wait_for("the first process of the namespaces", Duration::from_secs(10), || {
        if let Some(status) = outer.try_wait()? {
            bail!("`unshare` ended with {status}");
        }
        Life::child_of(outer.id())?.context("it has none yet")
    })
}
