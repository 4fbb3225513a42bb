//! Which Secrets, ConfigMaps and SluiceConfigs are looked at: those that a GatewayClass or Gateway of ours, a ListenerSet of it or a
//! BackendTLSPolicy refers to, and no others.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile::CONTROLLER;
use crate::index::*;

/// `objects`: at least every GatewayClass, Gateway, ListenerSet and BackendTLSPolicy, GatewayClasses before Gateways before ListenerSets.
pub fn references<'a>(objects: impl Iterator<Item = &'a Object>) -> BTreeSet<ObjectId> {
    let mut found = Found::default();
    for object in objects {
        match object {
            Object::GatewayClass(class) if *class.controller == *CONTROLLER => {
                found.classes.insert(&class.meta.name.name);
                found.parameters(&class.meta.name, class.parameters.as_ref());
            }
            Object::Gateway(gateway) if found.classes.contains(&*gateway.class) => {
                found.gateways.insert(&gateway.meta.name);
                found.listeners(&gateway.meta.name, &gateway.listeners);
                found.tls(&gateway.meta.name, &gateway.tls);
                found.parameters(&gateway.meta.name, gateway.parameters.as_ref());
            }
            Object::ListenerSet(set) => {
                let namespace = set.parent.namespace.as_ref().unwrap_or(&set.meta.name.namespace);
                let parent = Name { namespace: Arc::clone(namespace), name: Arc::clone(&set.parent.name) };
                if found.gateways.contains(&parent) {
                    found.listeners(&set.meta.name, &set.listeners);
                }
            }
            Object::BackendTlsPolicy(policy) => {
                if let Trust::These(authorities) = &policy.trust {
                    found.authorities(&policy.meta.name, authorities);
                }
            }
            _ => {}
        }
    }
    found.ids
}

#[derive(Default)]
struct Found<'a> {
    classes: BTreeSet<&'a str>,
    gateways: BTreeSet<&'a Name>,
    ids: BTreeSet<ObjectId>,
}

impl Found<'_> {
    fn listeners(&mut self, owner: &Name, listeners: &[Arc<Listener>]) {
        for listener in listeners {
            let certificates = match &listener.protocol {
                ListenerProtocol::Https { certificates, .. } => certificates,
                ListenerProtocol::Tls(TlsListener { mode: TlsMode::Terminate { certificates }, .. }) => certificates,
                _ => continue,
            };
            certificates.iter().for_each(|certificate| self.certificate(owner, certificate));
        }
    }

    fn tls(&mut self, owner: &Name, tls: &GatewayTls) {
        let of_ports = tls.clients_of.iter().filter_map(|(_, clients)| clients.as_ref());
        for clients in tls.clients.iter().chain(of_ports) {
            self.authorities(owner, &clients.authorities);
        }
        tls.client.iter().for_each(|certificate| self.certificate(owner, certificate));
    }

    fn parameters(&mut self, owner: &Name, reference: Option<&ParametersRef>) {
        let Some(ParametersRef { group, kind, namespace, name }) = reference else { return };
        // A GatewayClass has no namespace of its own.
        if namespace.is_some() || !owner.namespace.is_empty() {
            self.add(owner, group, kind, namespace.as_ref(), name);
        }
    }

    fn certificate(&mut self, owner: &Name, reference: &CertificateRef) {
        let CertificateRef { group, kind, namespace, name } = reference;
        self.add(owner, group, kind, namespace.as_ref(), name);
    }

    fn authorities(&mut self, owner: &Name, references: &[AuthorityRef]) {
        for AuthorityRef { group, kind, namespace, name } in references {
            self.add(owner, group, kind, namespace.as_ref(), name);
        }
    }

    fn add(&mut self, owner: &Name, group: &str, kind: &str, namespace: Option<&Arc<str>>, name: &Arc<str>) {
        let kind = match (group, kind) {
            ("", "Secret") => Kind::Secret,
            ("", "ConfigMap") => Kind::ConfigMap,
            (SLUICE_GROUP, "SluiceConfig") => Kind::SluiceConfig,
            // For the status of whoever refers to it.
            _ => return,
        };
        let namespace = namespace.unwrap_or(&owner.namespace);
        self.ids.insert(ObjectId { kind, name: Name { namespace: Arc::clone(namespace), name: Arc::clone(name) } });
    }
}
