//! The CustomResourceDefinitions of the Gateway API and of Sluice, as far as their metadata goes: which kinds there are, and of which bundle.

use std::rc::Rc;
use std::sync::Arc;

use super::api::ApiError;
use super::objects::{is_defined_by_crd, plural};
use super::watch::{Place, Subject};
use super::{Asked, Cluster, KINDS};
use crate::complaint::Complaint;
use crate::index::{Bundles, Change, GATEWAY_GROUP, Kind, SLUICE_GROUP};
use crate::source::yaml::Node;

/// Definitions are large; their metadata is not.
const METADATA: (&str, &str) = (
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
);
const BUNDLE: &str = "gateway.networking.k8s.io/bundle-version";

#[derive(Default)]
pub struct Known {
    /// By plural; `None`: nobody has said yet.
    crds: Option<Bundles>,
    /// And nobody will.
    withheld: bool,
}

impl Known {
    /// Whether it can be that the API server does not know the kind. While it starts it does not know its own CRDs.
    pub fn may_lack(&self, kind: Kind) -> bool {
        match &self.crds {
            _ if !is_defined_by_crd(kind) => false,
            Some(crds) => !crds.contains_key(plural(kind)),
            None => self.withheld,
        }
    }

    /// Those that are not there.
    pub fn say_missing(&self) {
        let Some(known) = &self.crds else { return };
        let missing = KINDS.into_iter().filter(|kind| is_defined_by_crd(*kind) && !known.contains_key(plural(*kind)));
        let missing: Vec<String> = missing.map(|kind| kind.to_string()).collect();
        if !missing.is_empty() {
            tracing::warn!(
                "the cluster has no CRD for {}; install those of the Gateway API that you want to use, they are taken up as they come",
                missing.join(", ")
            );
        }
    }

    /// Of the Gateway API.
    fn bundles(&self) -> Bundles {
        let read = |plural: &str| {
            KINDS.into_iter().any(|kind| is_defined_by_crd(kind) && super::objects::plural(kind) == plural)
        };
        let known = self.crds.iter().flatten().filter(|(plural, _)| read(plural));
        known.map(|(plural, bundle)| (plural.clone(), bundle.clone())).collect()
    }
}

pub struct Definitions {
    cluster: Rc<Cluster>,
    places: [Place; 1],
    first: Option<Asked>,
    /// A list under way.
    listing: Option<Bundles>,
    refusal: Complaint,
}

impl Definitions {
    pub fn new(cluster: &Rc<Cluster>) -> Definitions {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned();
        let places = [Place { path, selector: String::new() }];
        let (cluster, first) = (Rc::clone(cluster), Some(cluster.ask()));
        Definitions { cluster, places, first, listing: None, refusal: Complaint::default() }
    }

    fn changed(&self) {
        let bundles = self.cluster.definitions.borrow().bundles();
        self.cluster.store.borrow_mut().push(Change::Bundles(bundles));
        self.cluster.link.redefined();
        self.cluster.news.notify_one();
    }
}

impl Subject for Definitions {
    fn places(&self) -> &[Place] {
        &self.places
    }

    fn accept(&self) -> (&'static str, &'static str) {
        METADATA
    }

    fn begin(&mut self) {
        self.listing = Some(Bundles::new());
    }

    fn set(&mut self, _: usize, definition: &Node) {
        let Some(plural) = plural_of(definition) else { return };
        let bundle = definition.text_at(&["metadata", "annotations", BUNDLE]).map(Arc::from);
        match &mut self.listing {
            Some(listing) => drop(listing.insert(plural.into(), bundle)),
            None => {
                self.cluster.definitions.borrow_mut().crds.get_or_insert_default().insert(plural.into(), bundle);
                self.changed();
            }
        }
    }

    fn gone(&mut self, definition: &Node) {
        let Some(plural) = plural_of(definition) else { return };
        self.cluster.definitions.borrow_mut().crds.get_or_insert_default().remove(plural);
        self.changed();
    }

    fn listed(&mut self, _: usize) {
        self.cluster.definitions.borrow_mut().crds = self.listing.take();
        self.refusal.settle();
        self.first = None;
        self.changed();
    }

    fn missing(&mut self) -> bool {
        self.first = None;
        false
    }

    fn refused(&mut self, error: &ApiError, lasting: bool) {
        if self.refusal.is_new(error) {
            tracing::warn!(
                "cannot read CustomResourceDefinitions: {error}; new kinds are looked for every now and then"
            );
        }
        if lasting {
            self.cluster.definitions.borrow_mut().withheld = true;
            self.first = None;
        }
    }
}

/// Of a definition that may be read.
fn plural_of<'n>(definition: &'n Node) -> Option<&'n str> {
    let name = definition.text_at(&["metadata", "name"])?;
    name.split_once('.').filter(|(_, group)| [GATEWAY_GROUP, SLUICE_GROUP].contains(group)).map(|(plural, _)| plural)
}
