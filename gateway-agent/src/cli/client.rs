//! Asks the running agent.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::admin::Query;

pub fn ask(socket: &Path, query: Query) -> anyhow::Result<Value> {
    let path = socket.display();
    let mut stream = connect(socket)?;
    let mut answer = Vec::new();
    (|| {
        writeln!(stream, "{}", serde_json::to_string(&query)?)?;
        stream.read_to_end(&mut answer)
    })()
    .with_context(|| format!("the agent at {path} ended the conversation"))?;
    let answer: Value =
        serde_json::from_slice(&answer).with_context(|| format!("the answer of the agent at {path} is not whole"))?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    Ok(answer)
}

/// Asks, and calls back with every line of the answer until there is no more of it.
pub fn watch(socket: &Path, query: &Query, mut each: impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let path = socket.display();
    let mut stream = connect(socket)?;
    writeln!(stream, "{}", serde_json::to_string(query)?)
        .with_context(|| format!("the agent at {path} does not take the question"))?;
    for line in BufReader::new(stream).lines() {
        each(&line.with_context(|| format!("the agent at {path} ended the conversation"))?)?;
    }
    bail!("the agent at {path} has stopped")
}

fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let path = socket.display();
    UnixStream::connect(socket)
        .with_context(|| format!("no agent answers at {path}; is `sluice run` running with this --socket?"))
}
