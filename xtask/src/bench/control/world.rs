//! The objects of the bench, in a namespace that goes with them.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

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
pub const PODS: &str = "/api/v1/namespaces/bench-control/pods";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/bench-control/deployments";
const NAMESPACES: &str = "/api/v1/namespaces";

/// The `app` of pods, and their Service.
pub const FLAPPING: &str = "flapping";
pub const ROLLOUT: &str = "rollout";
/// The condition that a flapping pod is ready by.
const GATE: &str = "bench.sluice.dev/gate";
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
const PATIENCE: Duration = Duration::from_secs(120);

/// The namespace, until it is dropped.
pub struct World<'a>(&'a Cluster);

impl World<'_> {
    /// A Gateway; Services without pods, whose endpoint is a server of ours: `backend` (HTTP routes send there), `other`, `plain` (a TCPRoute
    /// does); that TCPRoute; and the Services of the pods `flapping` and `rollout`.
    pub fn new<'a>(cluster: &'a Cluster, api: &mut Api) -> Result<World<'a>> {
        api.create(NAMESPACES, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
        let world = World(cluster);
        api.create(GATEWAYS, &gateway())?;
        for (service, (_, port)) in [("backend", SERVERS[0]), ("other", SERVERS[1]), ("plain", SERVERS[0])] {
            api.create(SERVICES, &service_of(service, None))?;
            api.create(SLICES, &slice(service, port))?;
        }
        for app in [FLAPPING, ROLLOUT] {
            api.create(SERVICES, &service_of(app, Some(app)))?;
        }
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
fn slice(service: &str, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": [Family::V4.control()], "conditions": {"ready": true}}],
    })
}

/// What makes of a slice one that leads elsewhere.
pub fn to_port(port: u16) -> Value {
    json!({"ports": [{"name": "http", "port": port}]})
}

pub fn host(route: usize) -> String {
    format!("r{route}.example.com")
}

pub fn http_route(name: &str, host: &str, service: &str) -> Value {
    let spec = json!({
        "parentRefs": [{"name": "edge", "sectionName": "http"}],
        "hostnames": [host],
        "rules": rules(service, None),
    });
    json!({"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec})
}

/// `mark`: a header that backends get.
pub fn rules(service: &str, mark: Option<&str>) -> Value {
    let headers = |mark| json!({"set": [{"name": "x-mark", "value": mark}]});
    let filter = |mark| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": headers(mark)});
    let filters: Vec<Value> = mark.map(filter).into_iter().collect();
    json!([{"filters": filters, "backendRefs": [{"name": service, "port": 80}]}])
}

/// A listener with a host of its own.
pub fn listener_set(i: usize) -> Value {
    let listener = json!({"name": "http", "port": HTTP, "protocol": "HTTP", "hostname": format!("s{i}.example.org")});
    let spec = json!({"parentRef": {"name": "edge"}, "listeners": [listener]});
    json!({"apiVersion": GATEWAY_API, "kind": "ListenerSet", "metadata": {"name": format!("s{i}")}, "spec": spec})
}

/// A pod on this node, which is ready only while a condition of ours says so too.
pub fn flapping_pod(name: &str, node: &str) -> Value {
    let spec = json!({
        "nodeName": node,
        "readinessGates": [{"conditionType": GATE}],
        "containers": [echo()],
    });
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": FLAPPING}}, "spec": spec})
}

/// The status of such a pod.
pub fn gate(open: bool) -> Value {
    let said = if open { "True" } else { "False" };
    json!({"status": {"conditions": [{"type": GATE, "status": said}]}})
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

pub fn deployment(replicas: usize) -> Value {
    let labels = json!({"app": ROLLOUT});
    let spec = json!({
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [echo()]}},
    });
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": ROLLOUT}, "spec": spec})
}

/// It ends as soon as it is told to: nothing is kind to its clients.
fn echo() -> Value {
    let probe = json!({"httpGet": {"path": "/health", "port": 3000}, "periodSeconds": 1});
    json!({"name": "echo", "image": "localhost/echo-basic:local", "readinessProbe": probe})
}

/// What has the pods of a Deployment or DaemonSet replaced, as `kubectl rollout restart` does it.
pub fn restarted() -> Value {
    let now = format!("{:?}", SystemTime::now());
    json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}})
}

/// Whether all replicas of a Deployment, or what a DaemonSet has on each node, are of the newest template and ready, and no others are left.
pub fn is_rolled_out(object: &Value) -> bool {
    let status = &object["status"];
    let (wanted, fields) = match object["spec"]["replicas"].as_u64() {
        Some(replicas) => (replicas, ["updatedReplicas", "readyReplicas", "replicas"]),
        None => {
            let Some(nodes) = status["desiredNumberScheduled"].as_u64() else { return false };
            (nodes, ["updatedNumberScheduled", "numberReady", "numberAvailable"])
        }
    };
    fields.iter().all(|field| status[*field].as_u64() == Some(wanted))
        && status["observedGeneration"] == object["metadata"]["generation"]
}
