//! Leases of a cluster as the record: one a node, which it renews again and again and whose annotation says what it has in force, and one
//! whose annotation says who owns which address, which is written when that changes, however many addresses there are.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::Record;
use crate::addresses::{Applied, Heard, Owners, Sign};
use crate::complaint::Complaint;
use crate::source::Node;
use crate::source::kube::{Api, ApiError, Cluster, Format, Place, Subject, micro_time};

/// The Lease that says who owns what, and its annotation: lines of an address and a node.
const OWNERS: &str = "sluice-addresses";
const ANNOTATION: &str = "sluice.dev/owners";
/// Of the Lease of a node: [`Applied`].
const APPLIED: &str = "sluice.dev/applied";
/// Of all these Leases.
const LABEL: (&str, &str) = ("sluice.dev/purpose", "addresses");
/// A Lease counts whole seconds.
const SLACK: Duration = Duration::from_millis(500);

pub struct Leases {
    api: Api,
    path: String,
    node: Arc<str>,
}

impl Leases {
    /// Begins to listen.
    pub fn start(api: Api, cluster: Rc<Cluster>, node: &str) -> (Rc<Leases>, mpsc::UnboundedReceiver<Heard>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let path = api.leases();
        let selector = format!("&labelSelector={}%3D{}", LABEL.0.replace('/', "%2F"), LABEL.1);
        let places = vec![Place { path: path.clone(), selector }];
        let listener = Listener { places, sender, known: BTreeMap::new(), round: 0, refusal: Complaint::default() };
        let watched = api.clone();
        spawn_local(async move { cluster.follow(&watched, listener).await });
        (Rc::new(Leases { api, path, node: node.into() }), receiver)
    }

    /// Changes a Lease, or makes it if it is not there. Somebody else was faster: that is no error.
    async fn put(&self, name: &str, version: Option<&str>, change: Value) -> Result<(), ApiError> {
        let path = format!("{}/{name}", self.path);
        let mut known = change.clone();
        if let Some(version) = version {
            known["metadata"]["resourceVersion"] = version.into();
        }
        // An empty version: there is none as far as is known.
        let is_known = version != Some("");
        let sent = match is_known {
            true => self.api.send(Method::PATCH, &path, Format::MergePatch, known.to_string().into()).await.map(drop),
            false => Ok(()),
        };
        let is_there = is_known && !matches!(sent, Err(ApiError::Refused { code: StatusCode::NOT_FOUND, .. }));
        let sent = if is_there { sent } else { self.make(name, change).await };
        match sent {
            // The watches tell of both.
            Err(ApiError::Refused { code: StatusCode::CONFLICT, .. } | ApiError::Unreachable(_)) => Ok(()),
            sent => sent,
        }
    }

    async fn make(&self, name: &str, mut lease: Value) -> Result<(), ApiError> {
        lease["apiVersion"] = "coordination.k8s.io/v1".into();
        lease["kind"] = "Lease".into();
        lease["metadata"]["name"] = name.into();
        lease["metadata"]["labels"] = json!({ LABEL.0: LABEL.1 });
        self.api.send(Method::POST, &self.path, Format::Json, lease.to_string().into()).await.map(drop)
    }
}

impl Record for Leases {
    type Error = ApiError;

    async fn sign(&self, lasts: Duration, applied: Option<&Applied>) -> Result<(), ApiError> {
        let seconds = (lasts + SLACK).as_secs().max(1);
        let mut change = json!({
            "spec": { "holderIdentity": &*self.node, "leaseDurationSeconds": seconds, "renewTime": micro_time(Timestamp::now()) },
        });
        // What an earlier agent has said stays: the kernel goes on with it.
        if let Some(applied) = applied {
            change["metadata"]["annotations"][APPLIED] = applied.to_string().into();
        }
        self.put(&format!("sluice-node-{}", self.node), None, change).await
    }

    async fn write(&self, owners: &Owners, version: &str) -> Result<(), ApiError> {
        let lines: Vec<String> = owners.iter().map(|(address, node)| format!("{address} {node}\n")).collect();
        let change = json!({
            "metadata": { "annotations": { ANNOTATION: lines.concat() } },
            "spec": { "holderIdentity": &*self.node },
        });
        self.put(OWNERS, Some(version), change).await
    }
}

/// Hears what the Leases say.
struct Listener {
    places: Vec<Place>,
    sender: mpsc::UnboundedSender<Heard>,
    /// Leases of nodes: whose, and the list that had it last.
    known: BTreeMap<Box<str>, (Arc<str>, u32)>,
    round: u32,
    refusal: Complaint,
}

impl Listener {
    fn say(&self, heard: Heard) {
        // Who does not listen any more has ended.
        let _ = self.sender.send(heard);
    }

    fn nobody_owns_anything(&self) {
        self.say(Heard::Owners(Owners::new(), "".into()));
    }

    fn forget(&mut self, name: &str) {
        if let Some((node, _)) = self.known.remove(name) {
            self.say(Heard::Gone(node));
        }
    }
}

impl Subject for Listener {
    fn places(&self) -> &[Place] {
        &self.places
    }

    fn begin(&mut self) {
        self.round += 1;
    }

    fn set(&mut self, _: usize, object: &Node) {
        let Some(name) = object.text_at(&["metadata", "name"]) else { return };
        if name == OWNERS {
            self.known.insert(name.into(), ("".into(), self.round));
            let lines = object.text_at(&["metadata", "annotations", ANNOTATION]).unwrap_or_default().lines();
            let owner = |line: &str| {
                let (address, node) = line.split_once(' ')?;
                Some((address.parse().ok()?, node.into()))
            };
            let version = object.text_at(&["metadata", "resourceVersion"]).unwrap_or_default();
            self.say(Heard::Owners(lines.filter_map(owner).collect(), version.into()));
            return;
        }
        let (Some(node), Some(mark)) =
            (object.text_at(&["spec", "holderIdentity"]), object.text_at(&["spec", "renewTime"]))
        else {
            return;
        };
        let seconds =
            object.text_at(&["spec", "leaseDurationSeconds"]).and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
        let node: Arc<str> = node.into();
        self.known.insert(name.into(), (Arc::clone(&node), self.round));
        let lasts = Duration::from_secs(seconds).saturating_sub(SLACK);
        let applied = object.text_at(&["metadata", "annotations", APPLIED]).map(|text| Arc::new(Applied::parse(text)));
        self.say(Heard::Sign(Sign { node, mark: mark.into(), lasts, applied }));
    }

    fn gone(&mut self, object: &Node) {
        match object.text_at(&["metadata", "name"]) {
            Some(OWNERS) => self.nobody_owns_anything(),
            Some(name) => self.forget(name),
            None => {}
        }
    }

    fn listed(&mut self, _: usize) {
        self.refusal.settle();
        let old = self.known.iter().filter(|(name, (_, round))| *round != self.round && ***name != *OWNERS);
        let old: Vec<Box<str>> = old.map(|(name, _)| name.clone()).collect();
        old.iter().for_each(|name| self.forget(name));
        if self.known.get(OWNERS).is_none_or(|(_, round)| *round != self.round) {
            self.nobody_owns_anything();
        }
    }

    fn missing(&mut self) -> bool {
        // Every cluster has Leases.
        false
    }

    fn refused(&mut self, error: &ApiError, _: bool) {
        if self.refusal.is_new(error) {
            tracing::error!("cannot read Leases: {error}; addresses of the pool stay with the nodes that have them");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LASTS;
    use super::*;
    use crate::source::kube::node;

    fn listener() -> (Listener, mpsc::UnboundedReceiver<Heard>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (
            Listener { places: Vec::new(), sender, known: BTreeMap::new(), round: 0, refusal: Complaint::default() },
            receiver,
        )
    }

    fn tell(listener: &mut Listener, lease: &Value) {
        listener.set(0, &node(lease.to_string().as_bytes()).unwrap());
    }

    fn of_node(name: &str, mark: &str, seconds: u64) -> Value {
        json!({
            "metadata": { "name": format!("sluice-node-{name}"), "resourceVersion": "5" },
            "spec": { "holderIdentity": name, "renewTime": mark, "leaseDurationSeconds": seconds },
        })
    }

    fn of_owners(text: &str) -> Value {
        json!({
            "metadata": { "name": OWNERS, "resourceVersion": "7", "annotations": { ANNOTATION: text } },
            "spec": { "holderIdentity": "node-1" },
        })
    }

    fn heard(receiver: &mut mpsc::UnboundedReceiver<Heard>) -> Vec<Heard> {
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    #[test]
    fn a_lease_of_a_node_is_a_sign_that_it_lives() {
        let (mut listener, mut receiver) = listener();
        tell(&mut listener, &of_node("node-1", "12:00", 3));
        let sign = Sign { node: "node-1".into(), mark: "12:00".into(), lasts: LASTS, applied: None };
        assert_eq!(heard(&mut receiver), [Heard::Sign(sign.clone())]);
        let mut saying = of_node("node-1", "12:00", 3);
        saying["metadata"]["annotations"] = json!({ APPLIED: "gateways 7\n" });
        tell(&mut listener, &saying);
        let applied = Some(Arc::new(Applied::parse("gateways 7")));
        assert_eq!(heard(&mut receiver), [Heard::Sign(Sign { applied, ..sign })]);
        tell(&mut listener, &json!({ "metadata": { "name": "sluice-node-2" }, "spec": {} }));
        assert_eq!(heard(&mut receiver), []);
    }

    #[test]
    fn an_annotation_says_who_owns_what() {
        let (mut listener, mut receiver) = listener();
        tell(&mut listener, &of_owners("198.18.0.1 node-1\nnonsense\n2001:db8::1 node-2\nx node-3\n"));
        let owners = Owners::from([
            ("198.18.0.1".parse().unwrap(), "node-1".into()),
            ("2001:db8::1".parse().unwrap(), "node-2".into()),
        ]);
        assert_eq!(heard(&mut receiver), [Heard::Owners(owners, "7".into())]);
    }

    #[test]
    fn what_a_list_does_not_have_any_more_is_gone() {
        let (mut listener, mut receiver) = listener();
        listener.begin();
        tell(&mut listener, &of_node("node-1", "12:00", 3));
        tell(&mut listener, &of_node("node-2", "12:00", 3));
        tell(&mut listener, &of_owners("198.18.0.1 node-1\n"));
        listener.listed(0);
        assert_eq!(heard(&mut receiver).len(), 3);
        listener.begin();
        tell(&mut listener, &of_node("node-2", "12:01", 3));
        heard(&mut receiver);
        listener.listed(0);
        let nothing = Heard::Owners(Owners::new(), "".into());
        assert_eq!(heard(&mut receiver), [Heard::Gone("node-1".into()), nothing.clone()]);
        let gone = of_node("node-2", "12:01", 3);
        listener.gone(&node(gone.to_string().as_bytes()).unwrap());
        assert_eq!(heard(&mut receiver), [Heard::Gone("node-2".into())]);
    }

    /// Where nothing was ever written, the first may write.
    #[test]
    fn an_empty_list_says_that_nobody_owns_anything() {
        let (mut listener, mut receiver) = listener();
        listener.begin();
        listener.listed(0);
        assert_eq!(heard(&mut receiver), [Heard::Owners(Owners::new(), "".into())]);
    }
}
