//! Report → the `status` of each object, in the shape of the Gateway API.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use serde::Serialize;

use crate::compile::{
    ClassReport, Condition, ConditionType, GatewayReport, ListenerReport, PolicyReport, Reason, Report, RouteReport,
    SetReport, Subject,
};
use crate::index::{GATEWAY_GROUP, Kind, Name, ObjectId, ParentRef};

mod features;
mod kept;
mod pending;

pub use kept::Kept;

/// The status of every object that has one, sorted by kind and name.
pub fn status(report: &Report) -> Vec<ObjectStatus> {
    fn all<R: Reported>(reports: &[Arc<R>]) -> impl Iterator<Item = ObjectStatus> {
        reports.iter().map(|report| report.status())
    }
    let gateways = all(&report.classes).chain(all(&report.gateways)).chain(all(&report.listener_sets));
    gateways.chain(all(&report.routes)).chain(all(&report.policies)).collect()
}

/// What is reported of an object.
trait Reported {
    fn key(&self) -> (Kind, &Name);
    fn status(&self) -> ObjectStatus;
}

impl Reported for ClassReport {
    fn key(&self) -> (Kind, &Name) {
        (Kind::GatewayClass, &self.subject.name)
    }

    fn status(&self) -> ObjectStatus {
        let conditions = conditions(&self.conditions, &self.subject);
        let status = Status::GatewayClass(ClassStatus { conditions, supported_features: features::ALL });
        ObjectStatus::new(Kind::GatewayClass, &self.subject, status)
    }
}

impl Reported for GatewayReport {
    fn key(&self) -> (Kind, &Name) {
        (Kind::Gateway, &self.subject.name)
    }

    fn status(&self) -> ObjectStatus {
        ObjectStatus::new(Kind::Gateway, &self.subject, Status::Gateway(gateway_status(self)))
    }
}

impl Reported for SetReport {
    fn key(&self) -> (Kind, &Name) {
        (Kind::ListenerSet, &self.subject.name)
    }

    fn status(&self) -> ObjectStatus {
        let listeners = self.listeners.iter().map(|listener| listener_status(listener, &self.subject)).collect();
        let status = SetStatus { conditions: conditions(&self.conditions, &self.subject), listeners };
        ObjectStatus::new(Kind::ListenerSet, &self.subject, Status::ListenerSet(status))
    }
}

impl Reported for RouteReport {
    fn key(&self) -> (Kind, &Name) {
        (self.id.kind, &self.id.name)
    }

    fn status(&self) -> ObjectStatus {
        ObjectStatus::new(self.id.kind, &self.subject, Status::Route(route_status(self)))
    }
}

impl Reported for PolicyReport {
    fn key(&self) -> (Kind, &Name) {
        (Kind::BackendTLSPolicy, &self.subject.name)
    }

    fn status(&self) -> ObjectStatus {
        ObjectStatus::new(Kind::BackendTLSPolicy, &self.subject, Status::Policy(policy_status(self)))
    }
}

/// An object cut down to its status, as `kubectl get -o json` would show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    pub api_version: &'static str,
    #[serde(serialize_with = "as_text")]
    pub kind: Kind,
    pub metadata: Metadata,
    pub status: Status,
}

impl ObjectStatus {
    fn new(kind: Kind, subject: &Subject, status: Status) -> ObjectStatus {
        let name = subject.name.name.clone();
        let namespace = kind.namespaced().then(|| subject.name.namespace.clone());
        ObjectStatus {
            api_version: "gateway.networking.k8s.io/v1",
            kind,
            metadata: Metadata { name, namespace },
            status,
        }
    }

    pub fn id(&self) -> ObjectId {
        let Metadata { name, namespace } = self.metadata.clone();
        ObjectId { kind: self.kind, name: Name { namespace: namespace.unwrap_or_default(), name } }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Metadata {
    pub name: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Status {
    GatewayClass(ClassStatus),
    Gateway(GatewayStatus),
    ListenerSet(SetStatus),
    Route(RouteStatus),
    Policy(PolicyStatus),
}

/// Which list of conditions within a status.
#[derive(PartialEq, Eq, Hash)]
enum Place<'a> {
    Own,
    Listener(&'a str),
    Parent(&'a ParentRefStatus),
}

impl Status {
    fn conditions(&self) -> Vec<(Place<'_>, &ConditionStatus)> {
        match self {
            Status::GatewayClass(s) => s.conditions.iter().map(|c| (Place::Own, c)).collect(),
            Status::Gateway(s) => {
                let own = s.conditions.iter().map(|c| (Place::Own, c));
                let of_listeners =
                    s.listeners.iter().flat_map(|l| l.conditions.iter().map(|c| (Place::Listener(&l.name), c)));
                own.chain(of_listeners).collect()
            }
            Status::ListenerSet(s) => {
                let own = s.conditions.iter().map(|c| (Place::Own, c));
                let of_listeners =
                    s.listeners.iter().flat_map(|l| l.conditions.iter().map(|c| (Place::Listener(&l.name), c)));
                own.chain(of_listeners).collect()
            }
            Status::Policy(s) => {
                let of_ancestors =
                    s.ancestors.iter().flat_map(|a| a.conditions.iter().map(|c| (Place::Parent(&a.ancestor_ref), c)));
                of_ancestors.collect()
            }
            Status::Route(s) => {
                let of_parents =
                    s.parents.iter().flat_map(|p| p.conditions.iter().map(|c| (Place::Parent(&p.parent_ref), c)));
                of_parents.collect()
            }
        }
    }

    fn conditions_mut(&mut self) -> Vec<(Place<'_>, &mut ConditionStatus)> {
        match self {
            Status::GatewayClass(s) => s.conditions.iter_mut().map(|c| (Place::Own, c)).collect(),
            Status::Gateway(s) => own_and_listeners(&mut s.conditions, &mut s.listeners),
            Status::ListenerSet(s) => own_and_listeners(&mut s.conditions, &mut s.listeners),
            Status::Policy(s) => {
                let of_ancestors =
                    s.ancestors.iter_mut().flat_map(|AncestorStatus { ancestor_ref, conditions, .. }| {
                        let ancestor_ref = &*ancestor_ref;
                        conditions.iter_mut().map(move |c| (Place::Parent(ancestor_ref), c))
                    });
                of_ancestors.collect()
            }
            Status::Route(s) => {
                let of_parents = s.parents.iter_mut().flat_map(|ParentStatus { parent_ref, conditions, .. }| {
                    let parent_ref = &*parent_ref;
                    conditions.iter_mut().map(move |c| (Place::Parent(parent_ref), c))
                });
                of_parents.collect()
            }
        }
    }
}

fn own_and_listeners<'a>(
    own: &'a mut [ConditionStatus],
    listeners: &'a mut [ListenerStatus],
) -> Vec<(Place<'a>, &'a mut ConditionStatus)> {
    let own = own.iter_mut().map(|c| (Place::Own, c));
    let of_listeners = listeners.iter_mut().flat_map(|ListenerStatus { name, conditions, .. }| {
        let name = &**name;
        conditions.iter_mut().map(move |c| (Place::Listener(name), c))
    });
    own.chain(of_listeners).collect()
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassStatus {
    pub conditions: Vec<ConditionStatus>,
    #[serde(serialize_with = "as_features")]
    pub supported_features: &'static [&'static str],
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<AddressStatus>,
    pub conditions: Vec<ConditionStatus>,
    pub listeners: Vec<ListenerStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_listener_sets: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetStatus {
    pub conditions: Vec<ConditionStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyStatus {
    pub ancestors: Vec<AncestorStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    pub ancestor_ref: ParentRefStatus,
    pub controller_name: &'static str,
    pub conditions: Vec<ConditionStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddressStatus {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub value: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    pub name: Arc<str>,
    pub supported_kinds: Vec<RouteGroupKind>,
    pub attached_routes: u32,
    pub conditions: Vec<ConditionStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteGroupKind {
    pub group: &'static str,
    #[serde(serialize_with = "as_text")]
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteStatus {
    pub parents: Vec<ParentStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    pub parent_ref: ParentRefStatus,
    pub controller_name: &'static str,
    pub conditions: Vec<ConditionStatus>,
}

/// The parentRef as the route has it: that is how the two are matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRefStatus {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionStatus {
    #[serde(rename = "type")]
    pub kind: ConditionType,
    #[serde(serialize_with = "as_status")]
    pub status: bool,
    pub reason: Reason,
    pub message: Cow<'static, str>,
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// `None` unless it is [`Kept`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
}

fn gateway_status(gateway: &GatewayReport) -> GatewayStatus {
    GatewayStatus {
        addresses: gateway.addresses.iter().map(|&value| AddressStatus { kind: "IPAddress", value }).collect(),
        conditions: conditions(&gateway.conditions, &gateway.subject),
        listeners: gateway.listeners.iter().map(|listener| listener_status(listener, &gateway.subject)).collect(),
        attached_listener_sets: gateway.attached_sets,
    }
}

fn policy_status(policy: &PolicyReport) -> PolicyStatus {
    let ancestors = policy.ancestors.iter().map(|ancestor| AncestorStatus {
        ancestor_ref: ParentRefStatus {
            group: GATEWAY_GROUP.into(),
            kind: "Gateway".into(),
            namespace: Some(ancestor.gateway.namespace.clone()),
            name: ancestor.gateway.name.clone(),
            section_name: None,
            port: None,
        },
        controller_name: crate::compile::CONTROLLER,
        conditions: conditions(&ancestor.conditions, &policy.subject),
    });
    PolicyStatus { ancestors: ancestors.collect() }
}

fn listener_status(listener: &ListenerReport, gateway: &Subject) -> ListenerStatus {
    let kinds = listener.supported.iter().map(|of| RouteGroupKind { group: GATEWAY_GROUP, kind: of.kind() });
    ListenerStatus {
        name: listener.name.clone(),
        supported_kinds: kinds.collect(),
        attached_routes: listener.attached,
        conditions: conditions(&listener.conditions, gateway),
    }
}

fn route_status(route: &RouteReport) -> RouteStatus {
    let parents = route.parents.iter().map(|parent| ParentStatus {
        parent_ref: parent_ref(&parent.reference),
        controller_name: crate::compile::CONTROLLER,
        conditions: conditions(&parent.conditions, &route.subject),
    });
    RouteStatus { parents: parents.collect() }
}

/// What a parentRef means that does not say: kept once, for there are many.
static DEFAULT_PARENT: LazyLock<(Arc<str>, Arc<str>)> = LazyLock::new(|| (GATEWAY_GROUP.into(), "Gateway".into()));

fn parent_ref(reference: &ParentRef) -> ParentRefStatus {
    let (group, kind) = &*DEFAULT_PARENT;
    ParentRefStatus {
        group: reference.group.as_ref().unwrap_or(group).clone(),
        kind: reference.kind.as_ref().unwrap_or(kind).clone(),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
        section_name: reference.section.clone(),
        port: reference.port,
    }
}

fn conditions(conditions: &[Condition], subject: &Subject) -> Vec<ConditionStatus> {
    let condition = |condition: &Condition| ConditionStatus {
        kind: condition.kind,
        status: condition.status,
        reason: condition.reason,
        message: condition.message.clone(),
        observed_generation: subject.generation,
        last_transition_time: None,
    };
    conditions.iter().map(condition).collect()
}

fn as_text<S: serde::Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

fn as_status<S: serde::Serializer>(status: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *status { "True" } else { "False" })
}

fn as_features<S: serde::Serializer>(features: &&'static [&'static str], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Feature {
        name: &'static str,
    }
    serializer.collect_seq(features.iter().map(|name| Feature { name }))
}

/// As the Go types do it (`omitempty`).
fn is_zero(generation: &i64) -> bool {
    *generation == 0
}
