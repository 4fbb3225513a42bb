//! GatewayClasses and Gateways: which are ours, which addresses they have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::addresses::{self, Addresses};
use super::backend_tls::{self, Client};
use super::certificates::{self, Owner};
use super::listener_sets::{self, SetPlan};
use super::listeners::{Fate, ListenerPlan};
use super::{ClassReport, Condition, ConditionType, GatewayReport, Reason, SetReport, Subject};
use super::{parameters, version};
use crate::addresses::Pool;
use crate::index::{
    AddressRequest, AllowedNamespaces, Gateway, Index, Kind, Listener, ListenerSet, Name, ObjectId, Origin, Parameters,
};
use crate::ir::http::Settings;
use crate::source::{Problem, Severity};

/// A GatewayClass of ours.
pub struct Class {
    pub report: Arc<ClassReport>,
    /// `None`: it is not accepted.
    parameters: Option<Parameters>,
}

/// Every GatewayClass of this controller, by name.
pub fn classes(index: &Index, problems: &mut Vec<Problem>) -> Vec<Class> {
    let (ours, others): (Vec<_>, Vec<_>) = index.classes().partition(|class| &*class.controller == super::CONTROLLER);
    for class in others {
        let id = ObjectId { kind: Kind::GatewayClass, name: class.meta.name.clone() };
        let message = format!("belongs to controller {}, not to Sluice ({})", class.controller, super::CONTROLLER);
        problems.push(Problem::of_object(Severity::Note, id, &class.meta.origin, "spec.controllerName", message));
    }
    ours.into_iter()
        .map(|class| {
            let (parameters, accepted) = match parameters::of_class(index, class) {
                Ok(parameters) => {
                    let message = "Gateways of this class are served by Sluice";
                    (Some(parameters), Condition::yes(ConditionType::Accepted, Reason::Accepted, message))
                }
                Err(why) => (None, Condition::no(ConditionType::Accepted, Reason::InvalidParameters, why)),
            };
            let conditions = vec![accepted, version::supported(index.bundles())];
            Class { report: ClassReport { subject: (&class.meta).into(), conditions }.into(), parameters }
        })
        .collect()
}

/// A Gateway of ours on its way to the IR.
pub struct Plan {
    pub gateway: Arc<Gateway>,
    /// The addresses it has, sorted; empty if it is not accepted.
    pub addresses: Vec<IpAddr>,
    /// Those that a pool has.
    of_pool: Vec<IpAddr>,
    /// Those of the addresses that are not the node's.
    exclusive: Vec<IpAddr>,
    /// ListenerSets that name it as their parent, the first by precedence first.
    pub sets: Vec<SetPlan>,
    /// Its own, then those of its ListenerSets.
    pub listeners: Vec<ListenerPlan>,
    /// Of its HTTP and HTTPS listeners.
    pub settings: Arc<Settings>,
    /// What it shows of itself to backends.
    pub client: Client,
    /// Why the certificate for that does not hold.
    bad_client: Option<(Reason, String)>,
    /// Not accepted, and why.
    refused: Option<(Reason, String)>,
    /// Accepted, but not fully programmed, and why.
    addresses_missing: Option<(Reason, String)>,
}

/// All Gateways of our classes, the first by precedence first.
pub fn plan(index: &Index, classes: &[Class], problems: &mut Vec<Problem>) -> Vec<Plan> {
    let classes: HashMap<&str, &Class> =
        classes.iter().map(|class| (&*class.report.subject.name.name, class)).collect();
    let lots: HashMap<&Name, Lot> = index
        .gateways()
        .filter_map(|gateway| Some((&gateway.meta.name, lot(index, gateway, classes.get(&*gateway.class)?))))
        .collect();
    let mut plans: Vec<Plan> = Vec::new();
    let mut sets = listener_sets::by_gateway(index);
    let mut addresses = addresses(index, &lots);
    for gateway in index.gateways() {
        let sets = sets.remove(&gateway.meta.name).unwrap_or_default();
        let addresses = addresses.remove(&gateway.meta.name).unwrap_or_default();
        match lots.get(&gateway.meta.name) {
            Some(lot) => plans.push(Plan::new(gateway, sets, lot, addresses, index)),
            None => problems.push(not_ours(gateway, index)),
        }
    }
    listener_sets::without_gateway(index, &plans, problems);
    plans.iter().for_each(|plan| certificates::for_others(plan, problems));
    plans.sort_by_cached_key(|plan| plan.gateway.meta.precedence());
    plans
}

/// What a Gateway is told; or why it is refused.
type Lot = Result<Parameters, (Reason, String)>;

fn lot(index: &Index, gateway: &Gateway, class: &Class) -> Lot {
    if let Some(why) = gateway.refused.as_ref().filter(|_| gateway.listeners.is_empty()) {
        return Err((Reason::Invalid, why.to_string()));
    }
    let Some(parameters) = &class.parameters else {
        let message = format!("GatewayClass {} is not accepted; see its conditions", gateway.class);
        return Err((Reason::Pending, message));
    };
    let parameters =
        parameters::of_gateway(index, gateway, parameters).map_err(|why| (Reason::InvalidParameters, why))?;
    let odd = gateway.addresses.iter().enumerate().find_map(|(i, address)| {
        let AddressRequest::Type(kind, value) = address else { return None };
        let message = format!(
            "spec.addresses[{i}]: addresses of type {kind} ({value}) are not supported; give it type IPAddress"
        );
        Some((Reason::UnsupportedAddress, message))
    });
    odd.map_or(Ok(parameters), Err)
}

/// Of those that are accepted.
fn addresses<'a>(index: &'a Index, lots: &HashMap<&Name, Lot>) -> HashMap<&'a Name, Addresses> {
    let pool = |gateway: &Gateway| {
        let parameters = lots.get(&gateway.meta.name)?.as_ref().ok()?;
        Some(parameters.pool.clone().unwrap_or_else(|| Arc::clone(index.addressing().pool())))
    };
    let mut accepted: Vec<(&Gateway, Arc<Pool>)> =
        index.gateways().filter_map(|gateway| Some((&**gateway, pool(gateway)?))).collect();
    accepted.sort_by_cached_key(|(gateway, _)| gateway.meta.precedence());
    addresses::of(index, &accepted)
}

fn not_ours(gateway: &Gateway, index: &Index) -> Problem {
    let (severity, message) = match index.class(&gateway.class) {
        Some(class) => {
            let message =
                format!("belongs to GatewayClass {} of controller {}, not to Sluice", gateway.class, class.controller);
            (Severity::Note, message)
        }
        None => {
            let message = format!(
                "there is no GatewayClass {}: nobody serves this Gateway; name one with spec.controllerName {}",
                gateway.class,
                super::CONTROLLER
            );
            (Severity::Error, message)
        }
    };
    let id = ObjectId { kind: Kind::Gateway, name: gateway.meta.name.clone() };
    Problem::of_object(severity, id, &gateway.meta.origin, "spec.gatewayClassName", message)
}

impl Plan {
    fn new(
        gateway: &Arc<Gateway>,
        sets: Vec<&Arc<ListenerSet>>,
        lot: &Lot,
        addresses: Addresses,
        index: &Index,
    ) -> Plan {
        let Addresses { all: addresses, of_pool, exclusive, missing: addresses_missing } = addresses;
        let sets: Vec<SetPlan> = sets.into_iter().map(|set| SetPlan::new(set, gateway, index)).collect();
        let (client, bad_client) = match backend_tls::client(index, gateway) {
            Ok(client) => (client, None),
            Err(why) => (Client::Broken, Some(why)),
        };
        let owner = Owner { kind: Kind::Gateway, name: &gateway.meta.name };
        let mut listeners: Vec<ListenerPlan> = Vec::with_capacity(gateway.listeners.len());
        let mut add = |set: Option<usize>, owner: Owner, specs: &[Arc<Listener>]| {
            let specs = specs.iter().enumerate();
            listeners.extend(specs.map(|listener| ListenerPlan::new(listener, (set, owner), gateway, index)));
        };
        add(None, owner, &gateway.listeners);
        for (i, plan) in sets.iter().enumerate().filter(|(_, plan)| plan.allowed) {
            let owner = Owner { kind: Kind::ListenerSet, name: &plan.set.meta.name };
            add(Some(i), owner, &plan.set.listeners);
        }
        let mut plan = Plan {
            gateway: Arc::clone(gateway),
            addresses,
            of_pool,
            exclusive,
            sets,
            listeners,
            settings: lot.as_ref().map(Parameters::settings).unwrap_or_default().into(),
            client,
            bad_client,
            refused: lot.as_ref().err().cloned(),
            addresses_missing,
        };
        let nowhere = plan.addresses.is_empty();
        for listener in plan.listeners.iter_mut().filter(|l| nowhere && matches!(l.fate, Fate::Programmed)) {
            listener.fate = Fate::Idle;
        }
        plan
    }

    /// Addresses that are its own wish, not the node's. A Gateway without any listener holds none.
    pub fn exclusive_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let lives = self.listeners.iter().any(ListenerPlan::holds_its_place);
        self.exclusive.iter().copied().filter(move |_| lives)
    }

    /// Those of them that a pool has.
    pub fn pool_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.exclusive_addresses().filter(|address| self.of_pool.contains(address))
    }

    /// The object that a listener is written in.
    pub fn owner(&self, listener: &ListenerPlan) -> (ObjectId, &Origin) {
        let (kind, meta) = match listener.set {
            Some(set) => (Kind::ListenerSet, &self.sets[set].set.meta),
            None => (Kind::Gateway, &self.gateway.meta),
        };
        (ObjectId { kind, name: meta.name.clone() }, &meta.origin)
    }

    /// But for the routes that are attached.
    pub fn report(&self) -> (GatewayReport, Vec<SetReport>) {
        let conditions = self.conditions();
        let mut sets: Vec<SetReport> = (0..self.sets.len()).map(|i| listener_sets::report(self, i)).collect();
        let is_accepted = |c: &Condition| c.kind == ConditionType::Accepted && c.status;
        let attached = sets.iter().filter(|set| set.conditions.iter().any(is_accepted));
        // Also none, where somebody may want to know.
        let asked = !sets.is_empty() || self.gateway.listener_sets != AllowedNamespaces::None;
        let attached_sets = asked.then_some(attached.count() as u32);
        let mut own = Vec::with_capacity(self.gateway.listeners.len());
        for listener in &self.listeners {
            let reports = match listener.set {
                Some(set) => &mut sets[set].listeners,
                None => &mut own,
            };
            reports.push(listener.report());
        }
        let subject = Subject::from(&self.gateway.meta);
        let (addresses, of_pool) = (self.addresses.clone(), self.of_pool.clone());
        let gateway = GatewayReport { subject, conditions, addresses, of_pool, listeners: own, attached_sets };
        (gateway, sets)
    }

    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    fn conditions(&self) -> Vec<Condition> {
        let own: Vec<&ListenerPlan> = self.listeners.iter().filter(|l| l.set.is_none()).collect();
        let invalid: Vec<&str> = own.iter().filter(|l| l.is_invalid()).map(|l| &*l.spec.name).collect();
        let accepted = match &self.refused {
            Some((reason, message)) => Condition::no(ConditionType::Accepted, *reason, message.clone()),
            None if invalid.is_empty() => {
                Condition::yes(ConditionType::Accepted, Reason::Accepted, "The Gateway is served by Sluice")
            }
            None if invalid.len() == own.len() => {
                let message = format!("No listener is valid; see the conditions of {}", invalid.join(", "));
                Condition::no(ConditionType::Accepted, Reason::ListenersNotValid, message)
            }
            None => {
                let valid: Vec<&str> = own.iter().filter(|l| !l.is_invalid()).map(|l| &*l.spec.name).collect();
                let message =
                    format!("Served: {}; not valid, see their conditions: {}", valid.join(", "), invalid.join(", "));
                Condition::yes(ConditionType::Accepted, Reason::ListenersNotValid, message)
            }
        };
        let programmed = match &self.addresses_missing {
            _ if !accepted.status => {
                let message = match own.iter().any(|l| l.holds_its_place()) {
                    true => "Not accepted; its listeners are there only to refuse connections",
                    false => "Not accepted, so nothing of it is in the data plane",
                };
                Condition::no(ConditionType::Programmed, Reason::Invalid, message)
            }
            Some((reason, message)) => Condition::no(ConditionType::Programmed, *reason, message.clone()),
            None => Condition::yes(ConditionType::Programmed, Reason::Programmed, "The Gateway is in the data plane"),
        };
        let resolved = match (&self.gateway.tls.client, &self.bad_client) {
            (None, _) => None,
            (Some(_), Some((reason, message))) => {
                Some(Condition::no(ConditionType::ResolvedRefs, *reason, message.clone()))
            }
            (Some(_), None) => {
                let message = "The client certificate for backends is resolved";
                Some(Condition::yes(ConditionType::ResolvedRefs, Reason::ResolvedRefs, message))
            }
        };
        let accepted = still_accepted(accepted, self.gateway.refused.as_deref());
        let insecure = self.gateway.tls.is_insecure().then(|| {
            let message =
                "spec.tls.frontend lets clients in whose certificate is missing or wrong (AllowInsecureFallback)";
            Condition::yes(ConditionType::InsecureFrontendValidationMode, Reason::ConfigurationChanged, message)
        });
        [accepted, programmed].into_iter().chain(resolved).chain(insecure).collect()
    }
}

/// Of an object that is served as it was before it became something that is refused.
pub fn still_accepted(accepted: Condition, refused: Option<&str>) -> Condition {
    match refused.filter(|_| accepted.status) {
        Some(why) => {
            let message = format!("{why}; what was right before stays in force");
            Condition::no(ConditionType::Accepted, Reason::Invalid, message)
        }
        None => accepted,
    }
}
