//! The configuration of every contender, all with the same ways, and what answers behind them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use gateway_tests::lab::{Endpoint, Manifests, Node, Process, service, slice, tls_secret, wait_for};
use gateway_tests::tls::{Authority, Identity};
use tempfile::NamedTempFile;

use super::super::contender::{Envoy, State, rendered};
use super::super::network::{BACKENDS, GATEWAY, Network};
use crate::setup;

/// Where all contenders listen: in the clear, with TLS, and for gRPC in the clear.
pub const PORT: u16 = 80;
pub const TLS_PORT: u16 = 443;
pub const GRPC_PORT: u16 = 81;
/// In the certificate.
pub const NAME: &str = "bench.example";
/// How many routes there are.
pub const FEW: usize = 10;
pub const MANY: usize = 10_000;
pub const SMALL: usize = 1 << 10;
pub const LARGE: usize = 100 << 10;

/// Of the backends.
const WEB: u16 = 8081;
const GRPC: u16 = 8082;
/// Of the gateway; client and backends have the other one.
pub const CORE: usize = 1;
const BACKEND_CORE: &str = "0";
/// What an HTTPRoute may have.
const RULES_OF_A_ROUTE: usize = 16;

pub struct Place {
    pub routes: usize,
    pub state: State,
    /// Files that the configurations refer to.
    _files: Vec<NamedTempFile>,
}

impl Place {
    pub fn new(routes: usize, identity: &Identity, sluice: Option<&Path>) -> Result<Place> {
        let prefixes: Vec<String> = (0..routes).map(|i| format!("/r/{i:05}/")).collect();
        let each = |line: &dyn Fn(&String) -> String| prefixes.iter().map(line).collect::<String>();
        let locations =
            rendered(&each(&|prefix| format!("location {prefix} {{ proxy_pass http://web; }}\n")), &[], ".conf")?;
        let map = rendered(&each(&|prefix| format!("{prefix} routed\n")), &[], ".map")?;
        let both = std::fs::read_to_string(&identity.certificate_file)? + &std::fs::read_to_string(&identity.key_file)?;
        let both = rendered(&both, &[], ".pem")?;
        let path = |file: &Path| file.display().to_string();
        let envoys = each(&|prefix| {
            format!(
                "              - {{match: {{path_separated_prefix: \"{}\"}}, route: {{cluster: web}}}}\n",
                prefix.trim_end_matches('/')
            )
        });
        let mut values = vec![
            ("gateway", GATEWAY.to_string()),
            ("port", PORT.to_string()),
            ("tls_port", TLS_PORT.to_string()),
            ("grpc_listen", GRPC_PORT.to_string()),
            ("backend_1", BACKENDS[0].to_string()),
            ("backend_2", BACKENDS[1].to_string()),
            ("web_port", WEB.to_string()),
            ("grpc_port", GRPC.to_string()),
            ("certificate", path(&identity.certificate_file)),
            ("key", path(&identity.key_file)),
            ("both", path(both.path())),
            ("routes", envoys),
            ("map", path(map.path())),
        ];
        let haproxy = rendered(include_str!("../peers/l7/haproxy.cfg"), &values, ".cfg")?;
        let envoy = rendered(include_str!("../peers/l7/envoy.yaml"), &values, ".yaml")?;
        values.retain(|(name, _)| *name != "map");
        values.push(("map", path(locations.path())));
        let state = State {
            program: sluice.map(Path::to_owned),
            manifests: manifests(&prefixes, identity)?,
            haproxy,
            nginx: rendered(include_str!("../peers/l7/nginx.conf"), &values, ".conf")?,
            envoy: Some(Envoy { program: setup::envoy(), configuration: envoy }),
            nftables: None,
            ports: &[PORT, TLS_PORT, GRPC_PORT],
            core: Some(CORE),
        };
        Ok(Place { routes, state, _files: vec![locations, map, both] })
    }
}

/// One of ECDSA P-256.
pub fn identity(authority: &Authority) -> Result<Identity> {
    authority.identity(NAME, &[NAME])
}

/// Listeners in the clear and with TLS, one HTTPRoute for everything, and more of them for the prefixes, as many rules in each as the API
/// allows.
fn manifests(prefixes: &[String], identity: &Identity) -> Result<Manifests> {
    let manifests = Manifests::new()?;
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: bench, namespace: default}}\nspec:\n  \
         gatewayClassName: sluice\n  addresses:\n  - {{type: IPAddress, value: '{GATEWAY}'}}\n  listeners:\n  \
         - {{name: http, protocol: HTTP, port: {PORT}}}\n  - {{name: grpc, protocol: HTTP, port: {GRPC_PORT}}}\n  \
         - {{name: https, protocol: HTTPS, port: {TLS_PORT}, tls: {{certificateRefs: [{{name: bench}}]}}}}\n"
    );
    let mut documents = vec![gateway, tls_secret("bench", &identity.certificate_file, &identity.key_file)?];
    let both = BACKENDS.map(|address| Endpoint::ready(address.into()));
    for (name, port) in [("web", WEB), ("grpc", GRPC)] {
        // As the others do by default: what is compared is not how backends are picked.
        let in_turn = "namespace: default, annotations: {sluice.dev/balance: round-robin}}";
        let service = service(name, "TCP", port).replace("namespace: default}", in_turn);
        documents.push(match name {
            "grpc" => service.replace("protocol: TCP", "protocol: TCP, appProtocol: kubernetes.io/h2c"),
            _ => service,
        });
        documents.push(slice(name, "TCP", port, &both));
    }
    let web: &[&str] = &["http", "https"];
    documents.push(route("all", web, &["/".to_owned()], "web", WEB));
    documents.push(route("grpc", &["grpc"], &["/".to_owned()], "grpc", GRPC));
    for (i, prefixes) in prefixes.chunks(RULES_OF_A_ROUTE).enumerate() {
        documents.push(route(&format!("routed-{i}"), web, prefixes, "web", WEB));
    }
    manifests.write("bench.yaml", &documents)?;
    Ok(manifests)
}

fn route(name: &str, sections: &[&str], prefixes: &[String], service: &str, port: u16) -> String {
    let parents: String =
        sections.iter().map(|section| format!("  - {{name: bench, sectionName: {section}}}\n")).collect();
    let rule = |prefix: &String| {
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]\n    backendRefs: [{{name: {service}, port: {port}}}]\n"
        )
    };
    let rules: String = prefixes.iter().map(rule).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         parentRefs:\n{parents}  rules:\n{rules}"
    )
}

/// The backends of a network.
pub struct Answering {
    _processes: Vec<Process>,
    _configuration: NamedTempFile,
}

impl Answering {
    pub fn start(network: &Network) -> Result<Answering> {
        let values = [
            ("web_port", WEB.to_string()),
            ("grpc_port", GRPC.to_string()),
            ("small", "x".repeat(SMALL)),
            ("large", "$kib".repeat(LARGE / SMALL)),
            // As long as an empty message; nobody between reads it.
            ("message", "00000".to_owned()),
        ];
        let configuration = rendered(include_str!("../peers/l7/backend.conf"), &values, ".conf")?;
        let start = |node: &Node| -> Result<Process> {
            let mut nginx = node.command("taskset");
            nginx.args(["--cpu-list", BACKEND_CORE, "unshare", "--pid", "--fork", "--kill-child=KILL"]);
            nginx.args(["nginx", "-e", "stderr", "-c"]).arg(configuration.path());
            let mut process = node.spawn("nginx", nginx)?;
            wait_for("a backend", Duration::from_secs(10), || {
                if let Some(status) = process.ended()? {
                    return Ok(Err(anyhow::anyhow!("it ended with {status}:\n{}", process.log())));
                }
                let open = node.run(&format!("ss -Hltn sport = :{GRPC}"))?;
                if open.is_empty() { bail!("it is not there:\n{}", process.log()) } else { Ok(Ok(())) }
            })??;
            Ok(process)
        };
        let processes = network.backends.iter().map(start).collect::<Result<_>>()?;
        Ok(Answering { _processes: processes, _configuration: configuration })
    }
}
