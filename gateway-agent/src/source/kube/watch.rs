//! Something listed and then watched, for as long as the task lives. A watch goes on where the last one ended; only when the API server
//! does not know that place any more is everything listed again.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::StatusCode;
use http_body_util::BodyExt;

use super::api::{Api, ApiError, JSON, unreachable};
use super::json;
use super::link::{Backoff, Link};
use crate::source::yaml::Node;

/// Objects in an answer.
const PAGE: usize = 200;
/// How long a watch is asked to last, in seconds; then the next one goes on.
const WATCH: u64 = 290;
/// How often something that is not served is looked for, if nobody says that it is.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The how manieth refusal in a row is said (after 1 s, about) ...
const SAID: u32 = 4;
/// ... and believed (after 5 s).
const BELIEVED: u32 = 6;
/// A watch that lasts this long has no problem.
const SOUND: Duration = Duration::from_secs(5);
/// Of a line; an object is 1.5 MiB at most.
const MOST_BYTES: usize = 16 << 20;

/// What is watched, and who takes in what is said of it.
pub trait Subject {
    /// Where it may be found, the best first.
    fn places(&self) -> &[Place];
    /// What kind of answer to a list is wanted, and to a watch.
    fn accept(&self) -> (&'static str, &'static str) {
        (JSON, JSON)
    }
    /// A list begins.
    fn begin(&mut self);
    fn set(&mut self, place: usize, object: &Node);
    fn gone(&mut self, object: &Node);
    /// The list has ended: what was not set since `begin` is gone.
    fn listed(&mut self, place: usize);
    /// Everything up to a version has been said.
    fn reached(&mut self, _version: &str) {}
    /// None of the places is served. `false`: that cannot be, and is to be asked again.
    fn missing(&mut self) -> bool;
    /// The API server does not want to say. `lasting`: it is not waited for any longer.
    fn refused(&mut self, error: &ApiError, lasting: bool);
}

pub struct Place {
    pub path: String,
    /// `&fieldSelector=…`, or nothing.
    pub selector: String,
}

pub async fn follow(api: &Api, link: &Link, mut subject: impl Subject) {
    let mut definitions = link.definitions();
    let mut backoff = Backoff::default();
    let mut at: Option<(usize, String)> = None;
    // Answers in a row that were none.
    let mut refusals = 0;
    loop {
        let start = Instant::now();
        let outcome = match &mut at {
            None => match list(api, &mut subject).await {
                Ok(None) => {
                    link.back();
                    if subject.missing() {
                        let heard = tokio::time::timeout(LOOK_AGAIN, definitions.changed()).await;
                        backoff = Backoff::default();
                        if matches!(heard, Ok(Err(_))) {
                            return;
                        }
                    }
                    Ok(())
                }
                Ok(found) => {
                    link.back();
                    refusals = 0;
                    at = found;
                    continue;
                }
                Err(error) => Err(error),
            },
            Some((place, version)) => {
                let better = *place > 0;
                definitions.mark_unchanged();
                let ended = tokio::select! {
                    ended = watch(api, link, &mut subject, *place, version) => ended,
                    // Perhaps a better version is served now.
                    Ok(()) = definitions.changed(), if better => Ok(End::Stale),
                };
                if start.elapsed() > SOUND {
                    backoff = Backoff::default();
                    refusals = 0;
                }
                ended.map(|end| {
                    if matches!(end, End::Stale) {
                        at = None;
                    }
                })
            }
        };
        match outcome {
            // The usual end of a watch.
            Ok(()) if backoff.failures() == 0 && start.elapsed() > SOUND => continue,
            Ok(()) => {}
            Err(ApiError::Refused { code: StatusCode::GONE, .. }) => at = None,
            Err(ApiError::Refused { code: StatusCode::NOT_FOUND, .. }) if at.is_some() => at = None,
            Err(error @ ApiError::Unreachable(_)) => {
                refusals = 0;
                link.lost(&error);
                // Whoever gets through first tells the others.
                let _ = tokio::time::timeout(backoff.next(), link.returned()).await;
                continue;
            }
            Err(error) => {
                link.back();
                refusals += 1;
                if refusals == 1 {
                    backoff = Backoff::default();
                }
                // An API server that starts refuses much that it would not a moment later.
                if refusals >= SAID {
                    subject.refused(&error, refusals >= BELIEVED && !is_passing(&error));
                }
                if refusals >= BELIEVED || matches!(error, ApiError::Malformed(_)) {
                    at = None;
                }
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// It is the API server that has a problem, not we.
fn is_passing(error: &ApiError) -> bool {
    error.code().is_some_and(|code| code.is_server_error() || code == StatusCode::TOO_MANY_REQUESTS)
}

/// Reads all pages; says at which place, and the version of what was read. `None`: no place is served.
async fn list(api: &Api, subject: &mut impl Subject) -> Result<Option<(usize, String)>, ApiError> {
    for i in 0..subject.places().len() {
        match list_at(api, subject, i).await {
            Err(ApiError::Refused { code: StatusCode::NOT_FOUND, .. }) => {}
            listed => return listed.map(|version| Some((i, version))),
        }
    }
    Ok(None)
}

async fn list_at(api: &Api, subject: &mut impl Subject, i: usize) -> Result<String, ApiError> {
    let mut next = String::new();
    let mut begun = false;
    loop {
        let Place { path, selector } = &subject.places()[i];
        let page = format!("{path}?limit={PAGE}{selector}{}{next}", if next.is_empty() { "" } else { "&continue=" });
        let bytes = api.get(&page, subject.accept().0).await?;
        if !std::mem::replace(&mut begun, true) {
            subject.begin();
        }
        let end = json::page(&bytes, |object| subject.set(i, object)).map_err(ApiError::malformed)?;
        if end.next.is_empty() {
            subject.listed(i);
            subject.reached(&end.version);
            return Ok(end.version);
        }
        // Tokens are in URL-safe base64 without padding.
        next = end.next;
    }
}

enum End {
    /// The server has had enough; go on.
    Closed,
    /// List again.
    Stale,
}

async fn watch(
    api: &Api,
    link: &Link,
    subject: &mut impl Subject,
    place: usize,
    version: &mut String,
) -> Result<End, ApiError> {
    let Place { path, selector } = &subject.places()[place];
    let path =
        format!("{path}?watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH}{selector}&resourceVersion={version}");
    let mut body = api.stream(&path, subject.accept().1).await?;
    link.back();
    let mut text = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| unreachable(&error))?.into_data() else { continue };
        let mut seen = text.len();
        text.extend_from_slice(&data);
        while let Some(end) = text[seen..].iter().position(|byte| *byte == b'\n') {
            let line = text.split_to(seen + end + 1);
            seen = 0;
            if matches!(event(subject, place, &line, version)?, End::Stale) {
                return Ok(End::Stale);
            }
        }
        if text.len() > MOST_BYTES {
            return Err(ApiError::Malformed(format!("a line of more than {MOST_BYTES} bytes")));
        }
    }
    Ok(End::Closed)
}

/// Takes in a line of a watch.
fn event(subject: &mut impl Subject, place: usize, line: &[u8], version: &mut String) -> Result<End, ApiError> {
    if line.trim_ascii().is_empty() {
        return Ok(End::Closed);
    }
    let event = json::node(line).map_err(ApiError::malformed)?;
    let (Some(kind), Some(object)) = (event.get("type").and_then(Node::text), event.get("object")) else {
        return Err(ApiError::Malformed("a line of a watch without type and object".into()));
    };
    match kind {
        "ADDED" | "MODIFIED" => subject.set(place, object),
        "DELETED" => subject.gone(object),
        "BOOKMARK" => {}
        "ERROR" => {
            let code = object.get("code").and_then(Node::text).and_then(|code| code.parse().ok());
            let code =
                code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            if code == StatusCode::GONE {
                return Ok(End::Stale);
            }
            let message = object.get("message").and_then(Node::text).unwrap_or("no reason given").to_owned();
            return Err(ApiError::Refused { code, message });
        }
        _ => return Ok(End::Closed),
    }
    if let Some(now) = object.text_at(&["metadata", "resourceVersion"]) {
        now.clone_into(version);
        subject.reached(now);
    }
    Ok(End::Closed)
}
