//! Controllers of other classes in the same cluster, the API's own definitions, and nodes.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::addresses::owner;
use crate::bed::Bed;
use crate::traffic::{ALL, HTTP, L4, SNI, Site, within};

const OTHERS: [&str; 2] = ["one", "two"];

#[test]
fn what_is_of_other_classes_stays_as_it_is() {
    let bed = Bed::new();
    let namespace = "others";
    let site = Site::new(&bed, namespace);
    let mut manifests = String::new();
    for name in OTHERS {
        manifests += &format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: others-{name}}}, spec: {{controllerName: example.com/{name}}}}}\n\
             ---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}}}, spec: {{gatewayClassName: others-{name}, \
             listeners: [{{name: http, port: 80, protocol: HTTP}}]}}}}\n"
        );
    }
    bed.kubectl_with(&format!("apply -n {namespace} -f -"), &manifests).unwrap();
    let classes = Classes(&bed);
    // They write into what is theirs, and say that they serve our route too.
    let condition = |kind: &str| {
        json!({ "type": kind, "status": "True", "reason": kind, "message": "theirs", "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z" })
    };
    for name in OTHERS {
        let status = json!({ "status": { "addresses": [{ "type": "IPAddress", "value": "198.18.15.9" }], "conditions": [condition("Programmed")] } });
        bed.kubectl(&patch(&format!("gateway {name} -n {namespace} --subresource=status --type=merge"), &status))
            .unwrap();
    }
    let parents = json!({ "spec": { "parentRefs": [{ "name": "edge", "sectionName": "http" }, { "name": "one" }, { "name": "two" }] } });
    bed.kubectl(&patch(&format!("httproute http -n {namespace} --type=merge"), &parents)).unwrap();
    for name in OTHERS {
        let theirs = json!({ "controllerName": format!("example.com/{name}"), "parentRef": { "name": name }, "conditions": [condition("Accepted")] });
        let add = json!([{ "op": "add", "path": "/status/parents/-", "value": theirs }]);
        bed.kubectl(&patch(&format!("httproute http -n {namespace} --subresource=status --type=json"), &add)).unwrap();
    }
    let before: Vec<Value> =
        OTHERS.iter().map(|name| bed.get(&format!("gateway {name} -n {namespace}")).unwrap()).collect();

    let traffic = site.traffic();
    let change = json!({ "spec": { "hostnames": ["*.example"] } });
    bed.kubectl(&patch(&format!("httproute http -n {namespace} --type=merge"), &change)).unwrap();
    bed.wait_for("our word on the changed route", || {
        let route = bed.get(&format!("httproute http -n {namespace}"))?;
        let parents = route["status"]["parents"].as_array().context("no parents")?;
        let of = |controller: &str| parents.iter().filter(|p| p["controllerName"] == controller).collect::<Vec<_>>();
        let ours = of("sluice.dev/gateway-controller");
        ensure!(
            ours.len() == 1 && ours[0]["conditions"][0]["observedGeneration"] == route["metadata"]["generation"],
            "{ours:?}"
        );
        for name in OTHERS {
            let theirs = of(&format!("example.com/{name}"));
            ensure!(theirs.len() == 1 && theirs[0]["conditions"][0]["message"] == "theirs", "{parents:?}");
        }
        Ok(())
    });
    let after: Vec<Value> =
        OTHERS.iter().map(|name| bed.get(&format!("gateway {name} -n {namespace}")).unwrap()).collect();
    assert_eq!(after, before, "nobody has written to them");
    traffic.end().assert_all_answered(&ALL);
    drop(classes);
}

/// Goes with the test: classes are in no namespace.
struct Classes<'a>(&'a Bed);

impl Drop for Classes<'_> {
    fn drop(&mut self) {
        let _ = self.0.kubectl("delete gatewayclass others-one others-two --wait=false");
    }
}

fn patch(what: &str, patch: &Value) -> String {
    // kubectl's words are split at white space.
    format!("patch {what} -p {}", patch.to_string().replace(' ', ""))
}

/// Is there again when this is dropped.
struct Definition<'a> {
    bed: &'a Bed,
    manifest: String,
}

impl Definition<'_> {
    fn restore(&self) -> Result<()> {
        self.bed.kubectl_with("apply --server-side --force-conflicts -f -", &self.manifest).map(drop)
    }
}

impl Drop for Definition<'_> {
    fn drop(&mut self) {
        let _ = self.restore();
    }
}

#[test]
fn definitions_that_change_go_and_come_again_disturb_no_other_kind() {
    const CRD: &str = "tcproutes.gateway.networking.k8s.io";
    let bed = Bed::new();
    let namespace = "definitions";
    let site = Site::new(&bed, namespace);
    let mut definition = bed.get(&format!("crd {CRD}")).unwrap();
    let mut route = bed.get(&format!("tcproute tcp -n {namespace}")).unwrap();
    for object in [&mut definition, &mut route] {
        object["metadata"] =
            json!({ "name": object["metadata"]["name"], "annotations": object["metadata"]["annotations"] });
        object["status"].take();
        object.as_object_mut().unwrap().remove("status");
    }
    let definition = Definition { bed: &bed, manifest: definition.to_string() };

    let traffic = site.traffic();
    for crd in [CRD, "httproutes.gateway.networking.k8s.io", "tlsroutes.gateway.networking.k8s.io"] {
        bed.kubectl(&format!("annotate crd {crd} example.com/upgraded=yes --overwrite")).unwrap();
    }
    bed.kubectl_with(&format!("apply -n {namespace} -f -"), &LATER.replace("NAME", "first")).unwrap();
    wait_accepted(&bed, namespace, "first");
    traffic.end().assert_all_answered(&ALL);

    let traffic = site.traffic();
    // Its objects go with it.
    bed.kubectl(&format!("delete crd {CRD} --wait=true --timeout=60s")).unwrap();
    within("L4 to be refused", Duration::from_secs(20), || {
        ensure!(site.ask(L4).is_err(), "it is answered");
        Ok(())
    });
    bed.kubectl_with(&format!("apply -n {namespace} -f -"), &LATER.replace("NAME", "second")).unwrap();
    wait_accepted(&bed, namespace, "second");
    definition.restore().unwrap();
    bed.kubectl(&format!("wait --for=condition=Established --timeout=30s crd {CRD}")).unwrap();
    bed.wait_for("the route again", || {
        bed.kubectl_with(&format!("apply -n {namespace} -f -"), &route.to_string()).map(drop)
    });
    within("L4 again", Duration::from_secs(40), || site.ask(L4));
    traffic.end().assert_all_answered(&[SNI, HTTP]);
}

const LATER: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: NAME}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [NAME.test]
  rules: [{backendRefs: [{name: echo, port: 80}]}]
";

fn wait_accepted(bed: &Bed, namespace: &str, name: &str) {
    bed.wait_for(&format!("{name} to be accepted"), || {
        let route = bed.get(&format!("httproute {name} -n {namespace}"))?;
        ensure!(route["status"]["parents"][0]["conditions"][0]["status"] == "True", "{}", route["status"]);
        Ok(())
    });
}

/// A node that nobody reaches any more, until this is dropped.
struct CutOff<'a> {
    bed: &'a Bed,
    node: String,
}

impl CutOff<'_> {
    fn link(&self, state: &str) -> Result<()> {
        let words = ["link", "set", &self.node, state];
        self.bed.cluster.control().run("ip".as_ref(), &words).map(drop)
    }
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        let _ = self.link("up");
    }
}

/// Its cable is pulled, which for everybody else is what its death is: it answers nothing, not even ARP.
#[test]
fn when_a_node_dies_another_has_its_address_within_seconds() {
    let bed = Bed::new();
    let site = Site::new(&bed, "node");
    let address: IpAddr = site.address;
    let mut before = String::new();
    bed.wait_for("an owner", || {
        before = owner(&bed, address)?;
        Ok(())
    });
    let cut_off = CutOff { bed: &bed, node: before.clone() };
    cut_off.link("down").unwrap();
    let took = within("another owner", Duration::from_secs(20), || {
        ensure!(owner(&bed, address)? != before, "it is still {before}");
        Ok(())
    });
    assert!(took < Duration::from_millis(4_500), "{took:?}, of which kubectl takes up to one second");
    // Every other connection is to the pod that died with it, which nobody has noticed yet.
    ALL.into_iter().for_each(|way| _ = within(way, Duration::from_secs(30), || site.ask(way)));
    drop(cut_off);
    bed.wait_for_agents();
}
