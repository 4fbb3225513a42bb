//! The unix socket of the command line: one line asks, JSON answers until the end of the stream. An answer that cannot be
//! made is `{"error": "…"}`.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::stream::{Reader, stream};
use super::{Subject, dump, trace, trace_http};

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Query {
    Status,
    Listeners,
    Sni,
    Sets,
    Backends,
    Flows,
    Handshakes,
    Hellos,
    Trace(trace::Question),
    #[serde(rename = "trace-http")]
    TraceHttp(trace_http::HttpQuestion),
    /// Events as they come, a JSON object a line, until the asker hangs up.
    Live,
}

/// Serves until it is dropped.
pub async fn serve<S: Subject + 'static>(listener: UnixListener, subject: Rc<RefCell<S>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let subject = Rc::clone(&subject);
        tokio::task::spawn_local(async move {
            if let Err(error) = answer(stream, subject).await {
                tracing::debug!(%error, "a client of the admin socket has gone");
            }
        });
    }
}

/// Who asks nothing, or does not take the answer, is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

async fn answer<S: Subject>(mut stream: UnixStream, subject: Rc<RefCell<S>>) -> io::Result<()> {
    let mut line = String::new();
    let mut lines = BufReader::new((&mut stream).take(4096));
    tokio::time::timeout(PATIENCE, lines.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Query>(&line) {
        Ok(Query::Live) => return live(stream, subject).await,
        Ok(query) => respond(query, &*subject.borrow()),
        Err(error) => self::stream(move |writer| {
            let error = format!("the agent does not know this question ({error}); is it of another version?");
            dump::json(writer, &serde_json::json!({ "error": error }))
        }),
    };
    tokio::time::timeout(PATIENCE, send(stream, answer)).await?
}

async fn send(mut stream: UnixStream, mut answer: Reader) -> io::Result<()> {
    while let Some(part) = answer.next().await {
        stream.write_all(&part).await?;
    }
    stream.shutdown().await
}

async fn live<S: Subject>(mut stream: UnixStream, subject: Rc<RefCell<S>>) -> io::Result<()> {
    let mut lines = subject.borrow().watchers().join();
    let mut nothing = [0; 1];
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => stream.write_all(&line).await?,
                None => return stream.shutdown().await,
            },
            // Nothing more is asked: this is the end.
            _ = stream.read(&mut nothing) => return Ok(()),
        }
    }
}

fn respond(query: Query, subject: &impl Subject) -> Reader {
    let snapshot = subject.snapshot();
    if query == Query::Status {
        let (mut status, routes) = (subject.status(), subject.routes());
        return stream(move |writer| {
            status.server_names = dump::names_of_listeners(&snapshot, &routes)?;
            dump::json(writer, &status)
        });
    }
    let routes = match query {
        Query::Sni | Query::Trace(_) => subject.routes(),
        _ => dump::Routes::default(),
    };
    stream(move |writer| match query {
        Query::Listeners => dump::listeners(&snapshot, writer),
        Query::Sni => dump::names(&snapshot, &routes, writer),
        Query::Sets => dump::sets(&snapshot, writer),
        Query::Backends => dump::backends(&snapshot, writer),
        Query::Flows => dump::flows(&snapshot, writer),
        Query::Handshakes => dump::handshakes(&snapshot, writer),
        Query::Hellos => dump::hellos(&snapshot, writer),
        Query::TraceHttp(question) => match trace_http::trace(&snapshot.proxy.http(), &question) {
            Ok(stories) => dump::json(writer, &stories),
            Err(error) => dump::json(writer, &serde_json::json!({ "error": error })),
        },
        Query::Trace(question) => dump::json(writer, &trace::trace(&snapshot, &routes, &question)?),
        // Answered otherwise.
        Query::Status | Query::Live => Ok(()),
    })
}
