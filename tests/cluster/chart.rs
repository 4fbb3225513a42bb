//! The Helm chart: that it makes what kustomize makes, refuses values that mean nothing, and installs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed::Bed;
use crate::example;

/// Says where the program is.
const HELM: &str = "SLUICE_HELM";
const NAMESPACE: &str = "sluice-system";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn chart() -> String {
    root().join("deploy/chart/sluice").display().to_string()
}

/// `helm` beside the API server, with these words, for what it prints.
fn helm(bed: &Bed, words: &[&str]) -> Result<String> {
    let program =
        std::env::var_os(HELM).with_context(|| format!("{HELM} is not set: run `cargo xtask test cluster`"))?;
    let mut command = bed.cluster.control().command(program);
    output(command.arg("--kubeconfig").arg(bed.cluster.kubeconfig()).args(words), "")
}

fn output(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("it has no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let [said, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    ensure!(output.status.success(), "{said}{error}");
    Ok(said)
}

fn rendered(bed: &Bed, more: &[&str]) -> Result<String> {
    let chart = chart();
    helm(bed, &[&["template", "sluice", &chart, "--namespace", NAMESPACE, "--include-crds"], more].concat())
}

/// By kind and name.
fn objects(bed: &Bed, text: &str) -> BTreeMap<(String, String), Value> {
    let text = bed.kubectl_with("create --dry-run=client --validate=false -o json -f -", text).unwrap();
    let objects = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap);
    let name = |object: &Value| {
        let of = |field: &Value| field.as_str().unwrap().to_owned();
        (of(&object["kind"]), of(&object["metadata"]["name"]))
    };
    objects.map(|object| (name(&object), object)).collect()
}

#[test]
fn it_makes_what_kustomize_makes() {
    let bed = Bed::new();
    let mut by_kustomize =
        objects(&bed, &bed.kubectl(&format!("kustomize {}", root().join("deploy").display())).unwrap());
    let by_helm = objects(&bed, &rendered(&bed, &[]).unwrap());
    // Helm wants the namespace of a release to be there before it installs anything.
    assert!(by_kustomize.remove(&("Namespace".to_owned(), NAMESPACE.to_owned())).is_some());
    // It gives a namespace to what it does not know to have none.
    let class = by_kustomize.get_mut(&("GatewayClass".to_owned(), "sluice".to_owned())).unwrap();
    class["metadata"].as_object_mut().unwrap().remove("namespace");
    assert!(by_helm.len() >= 8, "{:?}", by_helm.keys());
    assert_eq!(by_helm.keys().collect::<Vec<_>>(), by_kustomize.keys().collect::<Vec<_>>());
    for (name, object) in &by_helm {
        let [helm, kustomize] =
            [object, &by_kustomize[name]].map(|object| serde_json::to_string_pretty(object).unwrap());
        assert!(helm == kustomize, "{name:?}\n--- by helm\n{helm}\n--- by kustomize\n{kustomize}");
    }
}

#[test]
fn the_api_server_takes_both_and_helm_finds_nothing_odd() {
    let bed = Bed::new();
    helm(&bed, &["lint", "--strict", &chart()]).unwrap();
    bed.kubectl(&format!("apply --dry-run=server -k {}", root().join("deploy").display())).unwrap();
    let all = [
        "--set=addressPool={198.18.8.0/24,2001:db8::8:0/112}",
        "--set=gatewayClass.config.accessLog.requests=4xx",
        "--set=image.tag=next,image.pullPolicy=Always,imagePullSecrets[0].name=registry",
        "--set=nodeSelector.role=edge,podAnnotations.note=a,podLabels.team=b,rollingUpdate.maxUnavailable=10%,rollingUpdate.maxSurge=0",
        "--set=extraArgs={--log-format=json},adminPort=9465",
    ];
    for more in [&[][..], &all] {
        let text = rendered(&bed, more).unwrap();
        bed.kubectl_with("apply --dry-run=server -f -", &text).unwrap();
    }
    let objects = objects(&bed, &rendered(&bed, &all).unwrap());
    let agents = &objects[&("DaemonSet".to_owned(), "sluice".to_owned())]["spec"]["template"]["spec"];
    let arguments: Vec<&str> =
        agents["containers"][0]["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let pools = ["--address-pool=198.18.8.0/24", "--address-pool=2001:db8::8:0/112", "--log-format=json"];
    assert!(arguments.ends_with(&pools) && arguments.contains(&"--admin-address=0.0.0.0:9465"), "{arguments:?}");
    assert_eq!(agents["containers"][0]["image"], "sluice-gateway/sluice:next");
    let config = &objects[&("SluiceConfig".to_owned(), "sluice".to_owned())];
    assert_eq!(config["spec"]["accessLog"]["requests"], "4xx");
    let class = &objects[&("GatewayClass".to_owned(), "sluice".to_owned())];
    assert_eq!(class["spec"]["parametersRef"]["namespace"], NAMESPACE);
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let bed = Bed::new();
    for (wrong, field) in [
        ("adminPort=0", "/adminPort"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("addressPool={web}", "/addressPool/0"),
        ("adressPool={198.18.8.0/24}", "adressPool"),
        ("gatewayClass.config.maxConnections=5", "/gatewayClass/config"),
        ("rollingUpdate.maxUnavailable=some", "/rollingUpdate/maxUnavailable"),
    ] {
        let refused = rendered(&bed, &["--set", wrong]).unwrap_err().to_string();
        assert!(refused.contains(field), "{wrong}: {refused}");
    }
}

/// In the place of what the other tests use, which is put back.
#[test]
fn it_installs_and_the_example_works() {
    let bed = Bed::new();
    let kustomization = root().join("tests/cluster/deploy").display().to_string();
    let back = Back { bed: &bed, kustomization };
    end_agents(&bed).unwrap();
    bed.kubectl(&format!("delete -k {} --wait --ignore-not-found", back.kustomization)).unwrap();
    let chart = chart();
    let pool = "--set=addressPool={198.18.8.0/24}";
    let words =
        ["install", "sluice", &chart, "--namespace", NAMESPACE, "--create-namespace", pool, "--wait", "--timeout=90s"];
    helm(&bed, &words).unwrap();
    example::works(&bed, "example-by-helm");
    helm(
        &bed,
        &[
            "upgrade",
            "sluice",
            &chart,
            "--namespace",
            NAMESPACE,
            "--reuse-values",
            "--set=extraArgs={--log-level=debug}",
            "--wait",
            "--timeout=120s",
        ],
    )
    .unwrap();
    let arguments = bed.kubectl(&format!(
        "get daemonset sluice -n {NAMESPACE} -o jsonpath={{.spec.template.spec.containers[0].args}}"
    ));
    assert!(arguments.unwrap().contains("--log-level=debug"));
    drop(back);
}

/// Before their rights go: what they ask for is never to be refused.
fn end_agents(bed: &Bed) -> Result<()> {
    bed.kubectl(&format!("delete daemonset sluice -n {NAMESPACE} --cascade=foreground --wait")).map(drop)
}

struct Back<'a> {
    bed: &'a Bed,
    kustomization: String,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        let _ = end_agents(self.bed);
        let _ = helm(self.bed, &["uninstall", "sluice", "--namespace", NAMESPACE, "--wait"]);
        let applied = self
            .bed
            .kubectl(&format!("apply -k {}", self.kustomization))
            .and_then(|_| self.bed.kubectl(&format!("rollout status daemonset/sluice -n {NAMESPACE} --timeout=90s")));
        if let Err(error) = applied {
            eprintln!("the tests after this one find no agents: {error:#}");
        }
    }
}
