//! The objects of the bench, in a namespace that goes with them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gateway_tests::cluster::plan::Family;
use gateway_tests::cluster::{Api, Cluster};
use serde_json::{Value, json};

pub const NAMESPACE: &str = "bench-control";
/// Of the Gateway.
pub const HTTP: u16 = 80;
pub const TCP: u16 = 5000;
/// Where the servers `one` and `other` listen, on the control plane's address.
pub const SERVERS: [(&str, u16); 2] = [("one", 7001), ("other", 7002)];

pub const SERVICES: &str = "/api/v1/namespaces/bench-control/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/bench-control/endpointslices";
pub const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/bench-control/gateways";
pub const SETS: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/bench-control/listenersets";
pub const HTTP_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/bench-control/httproutes";
pub const TCP_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/bench-control/tcproutes";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/bench-control/deployments";
const NAMESPACES: &str = "/api/v1/namespaces";

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
const PATIENCE: Duration = Duration::from_secs(120);

/// The namespace, until it is dropped.
pub struct World<'a>(&'a Cluster);

impl World<'_> {
    /// A Gateway; the Services `backend` (most HTTP routes send there), `plain` (a TCPRoute does), `flapping` (of its two endpoints one comes and
    /// goes) and `pods`; and that TCPRoute.
    pub fn new<'a>(cluster: &'a Cluster, api: &mut Api) -> Result<World<'a>> {
        api.create(NAMESPACES, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
        let world = World(cluster);
        api.create(GATEWAYS, &gateway())?;
        for service in ["backend", "plain", "flapping"] {
            api.create(SERVICES, &service_of(service, None))?;
            api.create(SLICES, &slice(service, service, SERVERS[0].1))?;
        }
        api.create(SLICES, &slice("flaps", "flapping", SERVERS[1].1))?;
        api.create(SERVICES, &service_of("pods", Some("pods")))?;
        let rules = json!([{"backendRefs": [{"name": "plain", "port": 80}]}]);
        let spec = json!({"parentRefs": [{"name": "edge", "sectionName": "tcp"}], "rules": rules});
        api.create(
            TCP_ROUTES,
            &json!({"apiVersion": GATEWAY_API, "kind": "TCPRoute", "metadata": {"name": "plain"}, "spec": spec}),
        )?;
        Ok(world)
    }

    /// That the Gateway was given.
    pub fn address(&self, api: &mut Api) -> Result<IpAddr> {
        let begun = Instant::now();
        loop {
            let gateway = api.get(&format!("{GATEWAYS}/edge"))?;
            match gateway["status"]["addresses"][0]["value"].as_str() {
                Some(address) => return address.parse().context("the Gateway's address"),
                None if begun.elapsed() > PATIENCE => bail!("the Gateway gets no address: {}", gateway["status"]),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        let network = match self.0.control().network() {
            Ok(network) => network,
            Err(error) => return eprintln!("the namespace {NAMESPACE} is left: {error:#}"),
        };
        let delete = || Api::connect(self.0)?.delete(&format!("{NAMESPACES}/{NAMESPACE}"));
        if let Err(error) = network.enter(delete) {
            eprintln!("the namespace {NAMESPACE} is left: {error:#}");
        }
    }
}

fn gateway() -> Value {
    let listeners = json!([
        {"name": "http", "port": HTTP, "protocol": "HTTP"},
        {"name": "tcp", "port": TCP, "protocol": "TCP"},
    ]);
    let spec = json!({
        "gatewayClassName": "sluice",
        "listeners": listeners,
        "allowedListeners": {"namespaces": {"from": "Same"}},
    });
    json!({"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"name": "edge"}, "spec": spec})
}

/// `app`: of the pods that it leads to; else its EndpointSlice is ours.
fn service_of(name: &str, app: Option<&str>) -> Value {
    let target = if app.is_some() { 3000 } else { 80 };
    let mut spec = json!({"ports": [{"name": "http", "port": 80, "targetPort": target}]});
    if let Some(app) = app {
        spec["selector"] = json!({"app": app});
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// With an endpoint on the control plane's address.
fn slice(name: &str, service: &str, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": [Family::V4.control()], "conditions": {"ready": true}}],
    })
}

/// What makes of a slice one that leads elsewhere.
pub fn to_port(port: u16) -> Value {
    json!({"ports": [{"name": "http", "port": port}]})
}

/// What makes of a slice one whose endpoint is ready, or is not.
pub fn readiness(ready: bool) -> Value {
    json!({"endpoints": [{"addresses": [Family::V4.control()], "conditions": {"ready": ready}}]})
}

pub fn host(route: usize) -> String {
    format!("r{route}.example.com")
}

/// A route with a host of its own.
pub fn http_route(name: &str, hosts: &[&str], service: &str) -> Value {
    let spec = json!({
        "parentRefs": [{"name": "edge", "sectionName": "http"}],
        "hostnames": hosts,
        "rules": rules(service, "x"),
    });
    json!({"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec})
}

/// `mark`: a header that backends get.
pub fn rules(service: &str, mark: &str) -> Value {
    json!([{
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-mark", "value": mark}]}}],
        "backendRefs": [{"name": service, "port": 80}],
    }])
}

/// A listener with a host of its own.
pub fn listener_set(i: usize) -> Value {
    let listener = json!({"name": "http", "port": HTTP, "protocol": "HTTP", "hostname": format!("s{i}.example.org")});
    let spec = json!({"parentRef": {"name": "edge"}, "listeners": [listener]});
    json!({"apiVersion": GATEWAY_API, "kind": "ListenerSet", "metadata": {"name": format!("s{i}")}, "spec": spec})
}

pub fn deployment(replicas: usize) -> Value {
    let labels = json!({"app": "pods"});
    let probe = json!({"httpGet": {"path": "/health", "port": 3000}, "periodSeconds": 1});
    let container = json!({"name": "echo", "image": "localhost/echo-basic:local", "readinessProbe": probe});
    let spec = json!({
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
        },
    });
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "pods"}, "spec": spec})
}

/// What has the pods of a Deployment replaced, as `kubectl rollout restart` does it.
pub fn restarted(mark: &str) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"bench": mark}}}}})
}

/// Whether all replicas are of the newest template and ready.
pub fn is_rolled_out(deployment: &Value) -> bool {
    let status = &deployment["status"];
    let wanted = deployment["spec"]["replicas"].as_u64();
    let all = ["updatedReplicas", "readyReplicas", "replicas"].iter().all(|field| status[*field].as_u64() == wanted);
    all && status["observedGeneration"] == deployment["metadata"]["generation"]
}
