//! What `compile` has to say about the objects: the conditions of each, and what does not fit into conditions.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::index::{Kind, Meta, Name, ObjectId, Origin, ParentRef, RouteType};
use crate::ir::ListenerName;
use crate::source::Problem;

/// Everything `compile` found, sorted by kind and name. What a change does not concern stays the same `Arc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// GatewayClasses of this controller.
    pub classes: Vec<Arc<ClassReport>>,
    /// Gateways of these classes.
    pub gateways: Vec<Arc<GatewayReport>>,
    /// ListenerSets of these Gateways.
    pub listener_sets: Vec<Arc<SetReport>>,
    /// Routes with a parent among these Gateways.
    pub routes: Vec<Arc<RouteReport>>,
    /// BackendTLSPolicies that these routes lead to.
    pub policies: Vec<Arc<PolicyReport>>,
    /// What no status can show: objects that are left aside, and why.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Of a Gateway, or of the one that a ListenerSet is for.
    pub fn gateway_of(&self, id: &ObjectId) -> Option<&GatewayReport> {
        let name = match id.kind {
            Kind::Gateway => &id.name,
            Kind::ListenerSet => {
                let found = self.listener_sets.binary_search_by(|set| set.subject.name.cmp(&id.name));
                &self.listener_sets[found.ok()?].gateway
            }
            _ => return None,
        };
        let found = self.gateways.binary_search_by(|gateway| gateway.subject.name.cmp(name));
        found.ok().map(|at| &*self.gateways[at])
    }

    /// For `apply`: what compiled did not get into the maps.
    pub fn not_programmed(&mut self, listener: &ListenerName, message: &str) {
        let fail = |listeners: &mut [ListenerReport], section: &str| {
            for report in listeners.iter_mut().filter(|l| *l.name == *section) {
                set(&mut report.conditions, ConditionType::Programmed, message);
            }
        };
        let of_gateway = |name: &Name| name.namespace == listener.namespace && name.name == listener.gateway;
        for gateway in self.gateways.iter_mut().filter(|g| of_gateway(&g.subject.name)) {
            let gateway = Arc::make_mut(gateway);
            fail(&mut gateway.listeners, &listener.section);
            set(&mut gateway.conditions, ConditionType::Programmed, message);
        }
        // As [`super::section`] names those of a ListenerSet.
        let Some((of_set, section)) = listener.section.rsplit_once('/') else { return };
        for report in self.listener_sets.iter_mut().filter(|report| report.subject.name.to_string() == of_set) {
            let report = Arc::make_mut(report);
            fail(&mut report.listeners, section);
            set(&mut report.conditions, ConditionType::Programmed, message);
        }
    }
}

fn set(conditions: &mut [Condition], kind: ConditionType, message: &str) {
    for condition in conditions.iter_mut().filter(|c| c.kind == kind) {
        *condition = Condition::no(kind, Reason::NoResources, message.to_owned());
    }
}

/// The object a report is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub name: Name,
    pub generation: i64,
    pub origin: Origin,
}

impl From<&Meta> for Subject {
    fn from(meta: &Meta) -> Subject {
        Subject { name: meta.name.clone(), generation: meta.generation, origin: meta.origin.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassReport {
    pub subject: Subject,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayReport {
    pub subject: Subject,
    pub conditions: Vec<Condition>,
    /// The addresses it really has.
    pub addresses: Vec<IpAddr>,
    /// Those of them that a pool has.
    pub of_pool: Vec<IpAddr>,
    pub listeners: Vec<ListenerReport>,
    /// Its ListenerSets that are accepted; `None`: it has nothing to do with any.
    pub attached_sets: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetReport {
    pub subject: Subject,
    /// Its parent.
    pub gateway: Name,
    pub conditions: Vec<Condition>,
    pub listeners: Vec<ListenerReport>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyReport {
    pub subject: Subject,
    pub ancestors: Vec<AncestorReport>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AncestorReport {
    pub gateway: Name,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerReport {
    pub name: Arc<str>,
    pub port: u16,
    /// The routes it takes.
    pub supported: Vec<RouteType>,
    /// Routes that are attached, whether or not one of them wins.
    pub attached: u32,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteReport {
    pub id: ObjectId,
    pub subject: Subject,
    pub parents: Vec<ParentReport>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentReport {
    pub reference: ParentRef,
    pub conditions: Vec<Condition>,
}

/// A status condition, but for the time of its last transition, which is no business of a pure function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: ConditionType,
    pub status: bool,
    pub reason: Reason,
    pub message: Cow<'static, str>,
    /// It holds, and yet the message tells of something that does nothing.
    pub remark: bool,
}

impl Condition {
    pub fn yes(kind: ConditionType, reason: Reason, message: impl Into<Cow<'static, str>>) -> Condition {
        Condition { kind, status: true, reason, message: message.into(), remark: false }
    }

    pub fn no(kind: ConditionType, reason: Reason, message: impl Into<Cow<'static, str>>) -> Condition {
        Condition { kind, status: false, reason, message: message.into(), remark: false }
    }

    /// Says that something is wrong, whichever way the condition is worded.
    pub fn is_bad(&self) -> bool {
        self.status == (self.kind == ConditionType::Conflicted)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum ConditionType {
    Accepted,
    SupportedVersion,
    Programmed,
    ResolvedRefs,
    Conflicted,
    /// Only where it is true.
    OverlappingTLSConfig,
    /// Only where it is true.
    InsecureFrontendValidationMode,
}

impl ConditionType {
    pub const ALL: [ConditionType; 7] = [
        ConditionType::Accepted,
        ConditionType::SupportedVersion,
        ConditionType::Programmed,
        ConditionType::ResolvedRefs,
        ConditionType::Conflicted,
        ConditionType::OverlappingTLSConfig,
        ConditionType::InsecureFrontendValidationMode,
    ];
}

/// The reasons of the Gateway API that Sluice gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Reason {
    Accepted,
    AddressNotAssigned,
    AddressNotUsable,
    BackendNotFound,
    ConfigurationChanged,
    Conflicted,
    HostnameConflict,
    Invalid,
    InvalidCACertificateKind,
    InvalidCACertificateRef,
    InvalidCertificateRef,
    InvalidClientCertificateRef,
    InvalidKind,
    InvalidParameters,
    InvalidRouteKinds,
    ListenersNotValid,
    NoConflicts,
    NoMatchingListenerHostname,
    NoMatchingParent,
    NoResources,
    NoValidCACertificate,
    NotAllowed,
    NotAllowedByListeners,
    OverlappingCertificates,
    OverlappingHostnames,
    ParentNotAccepted,
    ParentNotProgrammed,
    Pending,
    Programmed,
    ProtocolConflict,
    RefNotPermitted,
    ResolvedRefs,
    SupportedVersion,
    UnsupportedAddress,
    UnsupportedProtocol,
    UnsupportedValue,
    UnsupportedVersion,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
