//! BackendTLSPolicies: which of them is for which port of a Service, and what their status says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use super::authorities::{self, Referrer, Resolved};
use super::services::Uses;
use super::{AncestorReport, Condition, ConditionType, PolicyReport, Reason};
use crate::index::{BackendTlsPolicy, Index, Kind, Name, ObjectId, PolicyTarget, ServicePort, Trust};
use crate::ir::http::Roots;
use crate::source::{Problem, Severity};

const NO_ANCESTOR: &str = "nothing that ends in the agent leads to its targets (an HTTPRoute or GRPCRoute of a Gateway, a TLSRoute or TCPRoute at a \
                           TLS listener of mode Terminate), so it does nothing";
/// The limit of the CRD.
const MOST_ANCESTORS: usize = 16;

#[derive(Default)]
pub struct Policies {
    /// The first by precedence first.
    all: Vec<Resolution>,
    /// By Service, those that name it, the first by precedence first.
    by_service: HashMap<Name, OfService>,
}

/// The name of a port, or all of them, and which policy is for it.
type OfService = Vec<(Option<Arc<str>>, usize)>;

struct Resolution {
    policy: Arc<BackendTlsPolicy>,
    /// `Err`: nobody can be trusted.
    roots: Result<Roots, (Reason, String)>,
    /// References that do not hold.
    wrong: Option<(Reason, String)>,
    /// Targets that an older policy has, and which.
    lost: Vec<(PolicyTarget, Name)>,
}

/// Gateways that speak to ports of Services with policies: how many of their routes do.
#[derive(Default)]
pub struct Users(HashMap<Name, BTreeMap<(Arc<str>, Name), u32>>);

impl Users {
    /// Says whether that is news.
    pub fn add(&mut self, uses: &Uses) -> bool {
        let mut news = false;
        for (service, user) in &uses.with_policies {
            let count = self.0.entry_ref(service).or_default().entry(user.clone()).or_default();
            *count += 1;
            news |= *count == 1;
        }
        news
    }

    /// Says whether that is news.
    pub fn remove(&mut self, uses: &Uses) -> bool {
        let mut news = false;
        for (service, user) in &uses.with_policies {
            let Some(of_service) = self.0.get_mut(service) else { continue };
            let Some(count) = of_service.get_mut(user) else { continue };
            *count -= 1;
            if *count == 0 {
                of_service.remove(user);
                news = true;
            }
            if of_service.is_empty() {
                self.0.remove(service);
            }
        }
        news
    }
}

/// What a policy wants of connections to a port of a Service. `Err`: it cannot be heeded, and so nothing must be sent.
pub type Wanted<'p> = Option<Result<(&'p BackendTlsPolicy, &'p Roots), &'p Name>>;

impl Policies {
    pub fn new(index: &Index) -> Policies {
        let mut policies: Vec<&Arc<BackendTlsPolicy>> = index.policies().collect();
        policies.sort_by_cached_key(|policy| policy.meta.precedence());
        let mut by_service: HashMap<Name, OfService> = HashMap::new();
        let mut all: Vec<Resolution> = Vec::with_capacity(policies.len());
        for (i, policy) in policies.into_iter().enumerate() {
            let Resolved { authorities, wrong } = match &policy.trust {
                Trust::These(refs) => {
                    let namespace = &policy.meta.name.namespace;
                    let referrer = Referrer { kind: Kind::BackendTLSPolicy, namespace, bad_kind: Reason::InvalidKind };
                    authorities::resolve(index, &referrer, "spec.validation.caCertificateRefs", refs)
                }
                Trust::System | Trust::Unknown(_) | Trust::Refused(_) => Resolved { authorities: None, wrong: None },
            };
            let roots = match (&policy.trust, authorities) {
                (Trust::System, _) => Ok(Roots::System),
                (_, Some(authorities)) => Ok(Roots::These(authorities)),
                (Trust::Unknown(name), None) => {
                    let message =
                        format!("spec.validation.wellKnownCACertificates: \"{name}\" is not known here; use System");
                    Err((Reason::Invalid, message))
                }
                (Trust::Refused(why), None) => Err((Reason::Invalid, why.to_string())),
                (Trust::These(_), None) => {
                    let message =
                        "No CA certificate reference holds, so nothing is sent to the backends; see ResolvedRefs";
                    Err((Reason::NoValidCACertificate, message.to_owned()))
                }
            };
            let mut lost = Vec::new();
            for target in policy.targets.iter().filter(|target| target.is_service()) {
                let name = Name { namespace: policy.meta.name.namespace.clone(), name: target.name.clone() };
                let of_service = by_service.entry(name).or_default();
                let section = &target.section;
                if let Some((_, winner)) = of_service.iter().find(|(other, _)| other == section) {
                    lost.push((target.clone(), all[*winner].policy.meta.name.clone()));
                }
                of_service.push((section.clone(), i));
            }
            all.push(Resolution { policy: Arc::clone(policy), roots, wrong, lost });
        }
        Policies { all, by_service }
    }

    /// The policy for a port: one that names it before one for the whole Service.
    pub fn of(&self, service: &Name, port: &ServicePort) -> Wanted<'_> {
        let of_service = self.by_service.get(service)?;
        let first = |section: Option<&str>| of_service.iter().find(|(other, _)| other.as_deref() == section);
        let (_, i) = first(Some(&*port.name)).or_else(|| first(None))?;
        let Resolution { policy, roots, .. } = &self.all[*i];
        Some(roots.as_ref().map(|roots| (&**policy, roots)).map_err(|_| &policy.meta.name))
    }

    /// Whether some name the Service, or a port of it.
    pub fn are_for(&self, service: &Name) -> bool {
        self.by_service.contains_key(service)
    }

    /// Services that are to be spoken to otherwise than by `before`.
    pub fn changed(&self, before: &Policies) -> BTreeSet<Name> {
        let says = |policies: &Policies, service: &Name| -> Vec<_> {
            let of_service = policies.by_service.get(service).into_iter().flatten();
            let resolution = |(section, i): &(Option<Arc<str>>, usize)| {
                let Resolution { policy, roots, .. } = &policies.all[*i];
                (section.clone(), Arc::clone(policy), roots.as_ref().ok().cloned())
            };
            of_service.map(resolution).collect()
        };
        let services = self.by_service.keys().chain(before.by_service.keys());
        services.filter(|service| says(self, service) != says(before, service)).cloned().collect()
    }

    /// By name; those that no route of ours leads to are problems, for they have no status.
    pub fn report(&self, index: &Index, users: &Users) -> (Vec<Arc<PolicyReport>>, Vec<Problem>) {
        let mut reports: BTreeMap<&Name, Arc<PolicyReport>> = BTreeMap::new();
        let mut problems = Vec::new();
        for resolution in &self.all {
            let meta = &resolution.policy.meta;
            let mut warn = |field: &str, message: String| {
                let id = ObjectId { kind: Kind::BackendTLSPolicy, name: meta.name.clone() };
                problems.push(Problem::of_object(Severity::Warning, id, &meta.origin, field, message));
            };
            for (i, target) in resolution.policy.targets.iter().enumerate() {
                let why = why_no_target(index, &resolution.policy, target);
                why.into_iter().for_each(|why| warn(&format!("spec.targetRefs[{i}]"), why));
            }
            let ancestors = resolution.ancestors(users);
            if ancestors.is_empty() {
                warn("", NO_ANCESTOR.to_owned());
                continue;
            }
            let conditions = resolution.conditions();
            let ancestors = ancestors.into_iter().take(MOST_ANCESTORS);
            let ancestors = ancestors.map(|gateway| AncestorReport { gateway, conditions: conditions.clone() });
            let report = PolicyReport { subject: meta.into(), ancestors: ancestors.collect() };
            reports.insert(&meta.name, report.into());
        }
        (reports.into_values().collect(), problems)
    }
}

impl Resolution {
    /// Gateways whose routes lead to its targets.
    fn ancestors(&self, users: &Users) -> BTreeSet<Name> {
        let mut ancestors = BTreeSet::new();
        for target in self.policy.targets.iter().filter(|target| target.is_service()) {
            let name = Name { namespace: self.policy.meta.name.namespace.clone(), name: target.name.clone() };
            for (port, gateway) in users.0.get(&name).into_iter().flat_map(BTreeMap::keys) {
                if target.section.as_ref().is_none_or(|section| section == port) {
                    ancestors.insert(gateway.clone());
                }
            }
        }
        ancestors
    }

    fn conditions(&self) -> Vec<Condition> {
        use ConditionType::{Accepted, ResolvedRefs};
        let targets = self.policy.targets.len();
        let lost: Vec<String> =
            self.lost.iter().map(|(target, by)| format!("{} to {by}", target_text(target))).collect();
        let lost = format!("goes to a policy that comes first (the older, then by name): {}", lost.join(", "));
        let accepted = match &self.roots {
            _ if self.lost.len() == targets => {
                Condition::no(Accepted, Reason::Conflicted, format!("Every target {lost}"))
            }
            Err((reason, message)) => Condition::no(Accepted, *reason, message.clone()),
            Ok(_) if !self.lost.is_empty() => {
                Condition { remark: true, ..Condition::yes(Accepted, Reason::Accepted, format!("Some of it {lost}")) }
            }
            Ok(_) => Condition::yes(Accepted, Reason::Accepted, "Connections to the targets are made by it"),
        };
        let resolved = match &self.wrong {
            Some((reason, message)) => Condition::no(ResolvedRefs, *reason, message.clone()),
            None => Condition::yes(ResolvedRefs, Reason::ResolvedRefs, "All references are resolved"),
        };
        vec![accepted, resolved]
    }
}

fn target_text(target: &PolicyTarget) -> String {
    let section = target.section.as_ref().map(|section| format!(" port {section}")).unwrap_or_default();
    format!("Service {}{section}", target.name)
}

fn why_no_target(index: &Index, policy: &BackendTlsPolicy, target: &PolicyTarget) -> Option<String> {
    let PolicyTarget { group, kind, name, section } = target;
    if !target.is_service() {
        let slash = if group.is_empty() { "" } else { "/" };
        return Some(format!("a {group}{slash}{kind} is no target for Sluice, only a Service is; ignored"));
    }
    let name = Name { namespace: policy.meta.name.namespace.clone(), name: name.clone() };
    let Some(service) = index.service(&name) else {
        return Some(format!("there is no Service {name}; create it or correct the reference"));
    };
    let section = section.as_ref()?;
    let is_there = service.ports.iter().any(|port| port.name == *section);
    (!is_there).then(|| format!("Service {name} has no port named {section}; correct sectionName"))
}
