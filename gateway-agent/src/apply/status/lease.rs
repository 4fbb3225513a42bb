//! Who of all agents writes statuses: the holder of a Lease, as client-go's leader election has it. Its clock is compared with nobody's:
//! a Lease counts as abandoned when it has not changed for its duration as seen from here.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::source::kube::{Api, ApiError, Format, JSON, micro_time};

const NAME: &str = "sluice-status";
const DURATION: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(2);
/// After so many failures in a row there is more to it than an API server that starts.
const SAID: u32 = 3;

pub struct Lease {
    api: Api,
    path: String,
    /// Of this process.
    identity: String,
    /// The Lease of another as it was last, and since when it has been so.
    seen: Option<(String, Instant)>,
    holding: watch::Sender<bool>,
}

impl Lease {
    /// `node`: for people who look at the Lease.
    pub fn new(api: &Api, node: &str) -> (Lease, watch::Receiver<bool>) {
        let chance = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        let (holding, receiver) = watch::channel(false);
        let identity = format!("{node}_{chance:016x}");
        (Lease { api: api.clone(), path: api.leases(), identity, seen: None, holding }, receiver)
    }

    /// Until `stop` says so; then the Lease is given back.
    pub async fn run(mut self, stop: Rc<tokio::sync::Notify>) {
        let mut renewed = Instant::now();
        let mut failures = 0;
        loop {
            let start = Instant::now();
            // Or one that never ends would go on while another takes over.
            let attempt = tokio::time::timeout(RENEW, self.attempt(false)).await;
            match attempt.unwrap_or_else(|_| Err(ApiError::Unreachable("no answer".into()))) {
                Ok(holding) => {
                    renewed = start;
                    failures = 0;
                    self.set(holding);
                }
                Err(error) => {
                    failures += 1;
                    // Others take it for abandoned only after the whole duration.
                    if renewed.elapsed() > DURATION - RENEW {
                        self.set(false);
                    }
                    if failures == SAID && error.code().is_some() {
                        tracing::error!("cannot use the Lease {NAME}, so this agent writes no status: {error}");
                    }
                }
            }
            let pause = if *self.holding.borrow() && failures == 0 { RENEW } else { RETRY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.notified() => break,
            }
        }
        if self.holding.send_replace(false)
            && let Err(error) = self.attempt(true).await
        {
            tracing::debug!("the Lease {NAME} is not given back: {error}");
        }
    }

    fn set(&self, holding: bool) {
        let changed = self.holding.send_if_modified(|held| std::mem::replace(held, holding) != holding);
        if changed {
            tracing::info!("statuses are {}written by this agent", if holding { "" } else { "not " });
        }
    }

    /// Takes or renews it, if that may be; or gives it back.
    async fn attempt(&mut self, give_back: bool) -> Result<bool, ApiError> {
        let path = format!("{}/{NAME}", self.path);
        let bytes = match self.api.get(&path, JSON).await {
            Err(ApiError::Refused { code: StatusCode::NOT_FOUND, .. }) if !give_back => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": { "name": NAME }, "spec": self.spec(0, &Value::Null),
                });
                self.api.send(Method::POST, &self.path, Format::Json, lease.to_string().into()).await?;
                return Ok(true);
            }
            answer => answer?,
        };
        let mut lease: Value = serde_json::from_slice(&bytes).map_err(ApiError::malformed)?;
        let spec = &lease["spec"];
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() {
            let duration = spec["leaseDurationSeconds"].as_u64().map_or(DURATION, Duration::from_secs);
            let version = lease["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            match &self.seen {
                Some((seen, since)) if seen == version => {
                    if since.elapsed() < duration {
                        return Ok(false);
                    }
                }
                _ => {
                    self.seen = Some((version.to_owned(), Instant::now()));
                    return Ok(false);
                }
            }
        }
        let transitions = spec["leaseTransitions"].as_u64().unwrap_or(0) + u64::from(!ours);
        let since = if ours { spec["acquireTime"].clone() } else { Value::Null };
        lease["spec"] = match give_back {
            // It can be taken at once.
            true => json!({ "holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": transitions }),
            false => self.spec(transitions, &since),
        };
        self.api.send(Method::PUT, &path, Format::Json, lease.to_string().into()).await?;
        Ok(!give_back)
    }

    fn spec(&self, transitions: u64, since: &Value) -> Value {
        let now = micro_time(Timestamp::now());
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION.as_secs(),
            "leaseTransitions": transitions,
            "acquireTime": if since.is_null() { json!(now) } else { since.clone() },
            "renewTime": now,
        })
    }
}
