//! Asks the running agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::admin::Query;

pub fn ask(socket: &Path, query: Query) -> anyhow::Result<Value> {
    let path = socket.display();
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("no agent answers at {path}; is `sluice run` running with this --socket?"))?;
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
