//! The objects of a kind, or a single one, as the subject of a watch.

use std::rc::Rc;

use super::api::ApiError;
use super::watch::{Place, Subject};
use super::{Asked, Cluster};
use crate::complaint::Complaint;
use crate::index::{GATEWAY_GROUP, Kind, ObjectId, SLUICE_GROUP};
use crate::source::yaml::Node;
use crate::source::{kinds, manifest};

pub struct Objects {
    cluster: Rc<Cluster>,
    kind: Kind,
    /// The only one.
    single: Option<ObjectId>,
    places: Vec<Place>,
    round: u32,
    /// Until everything has been listed once, or cannot be.
    first: Option<Asked>,
    refusal: Complaint,
}

impl Objects {
    pub fn of(cluster: &Rc<Cluster>, kind: Kind) -> Objects {
        let versions = kinds::versions(kind).iter();
        let places = versions.map(|version| Place { path: path(kind, version, None), selector: String::new() });
        Objects::new(cluster, kind, None, places.collect())
    }

    pub fn one(cluster: &Rc<Cluster>, id: ObjectId) -> Objects {
        let selector = format!("&fieldSelector=metadata.name%3D{}", id.name.name);
        let place = |version: &&str| {
            let path = path(id.kind, version, Some(&id.name.namespace));
            Place { path, selector: selector.clone() }
        };
        let places = kinds::versions(id.kind).iter().map(place).collect();
        Objects::new(cluster, id.kind, Some(id), places)
    }

    fn new(cluster: &Rc<Cluster>, kind: Kind, single: Option<ObjectId>, places: Vec<Place>) -> Objects {
        let (cluster, first) = (Rc::clone(cluster), Some(cluster.ask()));
        Objects { cluster, kind, single, places, round: 0, first, refusal: Complaint::default() }
    }

    fn version(&self, place: usize) -> &'static str {
        kinds::versions(self.kind)[place]
    }

    /// Nothing was said of it.
    fn forget(&mut self) {
        self.round += 1;
        self.cluster.store.borrow_mut().forget(self.kind, self.single.as_ref(), self.round);
        self.cluster.news.notify_one();
    }
}

impl Subject for Objects {
    fn places(&self) -> &[Place] {
        &self.places
    }

    fn begin(&mut self) {
        self.round += 1;
    }

    fn set(&mut self, place: usize, object: &Node) {
        let touched = self.cluster.store.borrow_mut().set(self.kind, self.version(place), object, self.round);
        touched.into_iter().for_each(|id| self.cluster.board.touch(id));
        self.cluster.news.notify_one();
    }

    fn gone(&mut self, object: &Node) {
        self.cluster.store.borrow_mut().gone(manifest::identify(self.kind, object));
        self.cluster.news.notify_one();
    }

    fn listed(&mut self, place: usize) {
        self.cluster.store.borrow_mut().forget(self.kind, self.single.as_ref(), self.round);
        self.cluster.served.borrow_mut().insert(self.kind, self.version(place));
        self.refusal.settle();
        self.first = None;
        self.cluster.news.notify_one();
    }

    fn reached(&mut self, version: &str) {
        self.cluster.store.borrow_mut().progress.reached(self.kind, version);
    }

    fn missing(&mut self) -> bool {
        if !self.cluster.definitions.borrow().may_lack(self.kind) {
            return false;
        }
        self.cluster.served.borrow_mut().remove(&self.kind);
        self.forget();
        self.first = None;
        true
    }

    fn refused(&mut self, error: &ApiError, lasting: bool) {
        let what = match &self.single {
            Some(id) => id.to_string(),
            None => format!("objects of kind {}", self.kind),
        };
        if self.refusal.is_new(error) {
            tracing::error!("cannot read {what}: {error}; what was known of them stays in force");
        }
        if lasting {
            self.first = None;
        }
    }
}

/// Where the objects of a kind are, of all namespaces or of one.
pub fn path(kind: Kind, version: &str, namespace: Option<&str>) -> String {
    let root = match kind.group() {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    let plural = plural(kind);
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

pub fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::GatewayClass => "gatewayclasses",
        Kind::Gateway => "gateways",
        Kind::ListenerSet => "listenersets",
        Kind::HTTPRoute => "httproutes",
        Kind::GRPCRoute => "grpcroutes",
        Kind::TCPRoute => "tcproutes",
        Kind::TLSRoute => "tlsroutes",
        Kind::UDPRoute => "udproutes",
        Kind::BackendTLSPolicy => "backendtlspolicies",
        Kind::ReferenceGrant => "referencegrants",
        Kind::SluiceConfig => "sluiceconfigs",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::ConfigMap => "configmaps",
        Kind::Secret => "secrets",
        Kind::Namespace => "namespaces",
    }
}

/// Defined by a CRD.
pub fn is_defined_by_crd(kind: Kind) -> bool {
    [GATEWAY_GROUP, SLUICE_GROUP].contains(&kind.group())
}
