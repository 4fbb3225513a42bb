//! The configuration of every contender, all with the same names and the same ways.

use std::path::Path;

use anyhow::Result;
use gateway_tests::lab::{Endpoint, Manifests, service, slice};
use tempfile::NamedTempFile;

use super::super::contender::{Envoy, State, rendered};
use super::super::network::{BACKENDS, GATEWAY, TLS_BULK_PORT, TLS_PORT};
use crate::setup;

/// Where all contenders listen.
pub const PORT: u16 = 443;
/// Of the servers with real TLS.
pub const CHECK_PORT: u16 = 6996;
/// How many names of [`EXCHANGE_NAMES`] there are.
pub const FEW: u32 = 10;
pub const MANY: u32 = 10_000;
/// Names that lead to the servers that exchange a hello for a record, as `bench-load` numbers them.
pub const EXCHANGE_NAMES: &str = "n#.bench.example";
pub const BULK_NAME: &str = "bulk.bench.example";
/// Names that lead to real TLS on one of the backends.
pub const CHECK_NAMES: [&str; 2] = ["check-1.bench.example", "check-2.bench.example"];

/// What a TLSRoute may have.
const HOSTNAMES_OF_A_ROUTE: usize = 16;

pub struct Place {
    pub names: u32,
    pub state: State,
    /// Files that the configurations refer to.
    _maps: [NamedTempFile; 2],
}

impl Place {
    pub fn new(names: u32, sluice: Option<&Path>) -> Result<Place> {
        Place::with(names, sluice, "128k")
    }

    /// With nginx's own size of buffers: they are what a held connection takes up.
    pub fn for_holding(sluice: Option<&Path>) -> Result<Place> {
        Place::with(FEW, sluice, "16k")
    }

    fn with(names: u32, sluice: Option<&Path>, nginx_buffer: &str) -> Result<Place> {
        let exchange: Vec<String> = (0..names).map(|i| EXCHANGE_NAMES.replace('#', &format!("{i:05}"))).collect();
        let ways: Vec<(&str, &str)> = exchange
            .iter()
            .map(|name| (name.as_str(), "exchange"))
            .chain([(BULK_NAME, "bulk"), (CHECK_NAMES[0], "check_1"), (CHECK_NAMES[1], "check_2")])
            .collect();
        let lines = |end: &str| ways.iter().map(|(name, way)| format!("{name} {way}{end}\n")).collect::<String>();
        let maps = [rendered(&lines(""), &[], ".map")?, rendered(&lines(";"), &[], ".map")?];
        let mut values = vec![
            ("gateway", GATEWAY.to_string()),
            ("port", PORT.to_string()),
            ("backend_1", BACKENDS[0].to_string()),
            ("backend_2", BACKENDS[1].to_string()),
            ("exchange_port", TLS_PORT.to_string()),
            ("bulk_port", TLS_BULK_PORT.to_string()),
            ("check_port", CHECK_PORT.to_string()),
            ("exchange_names", exchange.join(", ")),
            ("bulk_name", BULK_NAME.to_owned()),
            ("check_name_1", CHECK_NAMES[0].to_owned()),
            ("check_name_2", CHECK_NAMES[1].to_owned()),
            ("buffer", nginx_buffer.to_owned()),
            ("map", maps[0].path().display().to_string()),
        ];
        let haproxy = rendered(include_str!("../peers/sni/haproxy.cfg"), &values, ".cfg")?;
        let envoy = rendered(include_str!("../peers/sni/envoy.yaml"), &values, ".yaml")?;
        values.retain(|(name, _)| *name != "map");
        values.push(("map", maps[1].path().display().to_string()));
        let state = State {
            program: sluice.map(Path::to_owned),
            manifests: manifests(&exchange)?,
            haproxy,
            nginx: rendered(include_str!("../peers/sni/nginx.conf"), &values, ".conf")?,
            envoy: Some(Envoy { program: setup::envoy(), configuration: envoy }),
            nftables: None,
            ports: &[PORT],
            core: None,
        };
        Ok(Place { names, state, _maps: maps })
    }
}

/// A passthrough listener, and TLSRoutes of as many hostnames as the API allows.
fn manifests(exchange: &[String]) -> Result<Manifests> {
    let manifests = Manifests::new()?;
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: bench, namespace: default}}\nspec:\n  \
         gatewayClassName: sluice\n  addresses:\n  - {{type: IPAddress, value: '{GATEWAY}'}}\n  listeners:\n  \
         - {{name: tls, protocol: TLS, port: {PORT}, tls: {{mode: Passthrough}}}}\n"
    );
    let both = BACKENDS.map(|address| Endpoint::ready(address.into()));
    let mut documents = vec![gateway];
    for (name, port, endpoints) in [
        ("exchange", TLS_PORT, &both[..]),
        ("bulk", TLS_BULK_PORT, &both[..]),
        ("check-1", CHECK_PORT, &both[..1]),
        ("check-2", CHECK_PORT, &both[1..]),
    ] {
        documents.extend([service(name, "TCP", port), slice(name, "TCP", port, endpoints)]);
    }
    documents.push(route("bulk", &[BULK_NAME.to_owned()], "bulk", TLS_BULK_PORT));
    for (name, host) in [("check-1", CHECK_NAMES[0]), ("check-2", CHECK_NAMES[1])] {
        documents.push(route(name, &[host.to_owned()], name, CHECK_PORT));
    }
    for (i, names) in exchange.chunks(HOSTNAMES_OF_A_ROUTE).enumerate() {
        documents.push(route(&format!("exchange-{i}"), names, "exchange", TLS_PORT));
    }
    manifests.write("bench.yaml", &documents)?;
    Ok(manifests)
}

fn route(name: &str, hostnames: &[String], service: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         parentRefs: [{{name: bench}}]\n  hostnames: [{}]\n  rules:\n  - backendRefs: [{{name: {service}, port: {port}}}]\n",
        hostnames.join(", ")
    )
}
