//! HTTP, HTTPS and gRPC in the lab: the world with web and gRPC servers in it, and a Gateway with routes to them.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{
    Agent, Endpoint, Keep, Manifests, Node, Process, World, address, go_program, service, slice, tls_secret, wait_for,
};
use crate::tls::{Authority, Identity};

/// Listeners of [`Web`].
pub const PORT: u16 = 80;
pub const TLS_PORT: u16 = 443;
/// Where the servers listen.
pub const WEB: u16 = 8080;
pub const RPC: u16 = 8090;

/// The names that have certificates of their own.
pub const SHOP: &str = "shop.test";
pub const APP: &str = "app.test";

/// Client, gateway, pods and remote host; a web server and a gRPC server in each of the latter three (tests/clients/go), a Gateway that
/// listens for HTTP on port 80 and for HTTPS with two certificates on port 443, and routes.
pub struct Web {
    pub world: World,
    pub manifests: Manifests,
    pub authority: Authority,
    pub shop: Identity,
    pub app: Identity,
    _servers: Vec<Process>,
}

const ROUTES: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.test]
  rules:
  - matches: [{path: {type: PathPrefix, value: /canary}}]
    backendRefs: [{name: pod-1, port: 8080, weight: 90}, {name: remote, port: 8080, weight: 10}]
  - matches: [{path: {type: PathPrefix, value: /}, headers: [{name: X-Kind, value: beta}]}]
    backendRefs: [{name: pod-2, port: 8080}]
  - matches: [{path: {type: Exact, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /h2}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: pod-2-h2, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /both}}]
    backendRefs: [{name: both, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /both-h2}}]
    backendRefs: [{name: both-h2, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: pod-1, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: default}
spec:
  parentRefs: [{name: edge}]
  hostnames: [app.test]
  rules:
  - backendRefs: [{name: remote, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cors, namespace: default}
spec:
  parentRefs: [{name: edge}]
  hostnames: [cors.test]
  rules:
  - matches: [{path: {type: PathPrefix, value: /}}]
    filters: [{type: CORS, cors: {allowOrigins: ['https://shop.test'], allowMethods: [PUT], allowHeaders: [X-Own], exposeHeaders: [X-Backend], maxAge: 60}}]
    backendRefs: [{name: pod-2, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: rpc, namespace: default}
spec:
  parentRefs: [{name: edge}]
  hostnames: [rpc.test]
  rules:
  - matches: [{method: {service: grpc.testing.TestService}, headers: [{name: x-kind, value: beta}]}]
    backendRefs: [{name: pod-2-rpc, port: 8090}]
  - matches: [{method: {service: grpc.testing.TestService}, headers: [{name: x-kind, value: both}]}]
    backendRefs: [{name: both-rpc, port: 8090}]
  - matches: [{method: {service: grpc.testing.TestService}}]
    backendRefs: [{name: pod-1-rpc, port: 8090}]
";

impl Web {
    pub fn new() -> Result<Web> {
        let world = World::new(Keep::UntilDrop)?;
        let authority = Authority::new()?;
        let shop = authority.identity("shop", &[SHOP, "cors.test", "rpc.test"])?;
        let app = authority.identity("app", &[APP])?;
        let mut servers = Vec::new();
        for node in [&world.pods[0], &world.pods[1], &world.remote] {
            servers.push(server(node, "web", node.name(), WEB)?);
            servers.push(server(node, "rpc-serve", node.name(), RPC)?);
        }
        let web = Web { world, manifests: Manifests::new()?, authority, shop, app, _servers: servers };
        web.publish()?;
        Ok(web)
    }

    fn publish(&self) -> Result<()> {
        self.publish_gateway("")?;
        self.publish_certificates(&self.shop, &self.app)?;
        self.publish_routes("")?;
        let mut documents = Vec::new();
        for (name, addresses) in [("pod-1", address::POD_1), ("pod-2", address::POD_2), ("remote", address::REMOTE)] {
            let endpoints = addresses.map(Endpoint::ready);
            let (h2, rpc) = (format!("{name}-h2"), format!("{name}-rpc"));
            documents.extend([service(name, "TCP", WEB), slice(name, "TCP", WEB, &endpoints)]);
            documents.extend([in_h2(&service(&h2, "TCP", WEB)), slice(&h2, "TCP", WEB, &endpoints)]);
            documents.extend([in_h2(&service(&rpc, "TCP", RPC)), slice(&rpc, "TCP", RPC, &endpoints)]);
        }
        documents.push(service("both", "TCP", WEB));
        documents.push(in_h2(&service("both-h2", "TCP", WEB)));
        documents.push(in_h2(&service("both-rpc", "TCP", RPC)));
        self.manifests.write("services.yaml", &documents)?;
        self.publish_both(
            &[address::POD_1, address::POD_2].concat().into_iter().map(Endpoint::ready).collect::<Vec<_>>(),
        )
    }

    /// The endpoints of the Services `both`, `both-h2` and `both-rpc`.
    pub fn publish_both(&self, endpoints: &[Endpoint]) -> Result<()> {
        let of = |name, port| slice(name, "TCP", port, endpoints);
        self.manifests.write("both.yaml", &[of("both", WEB), of("both-h2", WEB), of("both-rpc", RPC)])
    }

    pub fn publish_gateway(&self, settings: &str) -> Result<()> {
        let config = format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: SluiceConfig\nmetadata: {{name: edge, namespace: default}}\nspec: {{{settings}}}\n"
        );
        self.manifests.write("gateway.yaml", &[http_gateway(), config])
    }

    /// The routes, and further ones.
    pub fn publish_routes(&self, more: &str) -> Result<()> {
        self.manifests.replace("routes.yaml", &[ROUTES, more].concat())
    }

    pub fn publish_certificates(&self, shop: &Identity, app: &Identity) -> Result<()> {
        let secret = |name, identity: &Identity| tls_secret(name, &identity.certificate_file, &identity.key_file);
        self.manifests.write("secrets.yaml", &[secret("shop", shop)?, secret("app", app)?])
    }

    /// Starts the agent; the manifests are in force when this returns.
    pub fn agent(&self) -> Result<Agent<'_>> {
        Agent::start(&self.world.gateway, self.manifests.path())
    }

    /// The authority's certificate, for programs that read files.
    pub fn ca(&self) -> String {
        self.authority.file().display().to_string()
    }

    /// Lets programs on the client find the names at the Gateway's IPv4 address, as DNS would.
    pub fn name_addresses(&self, names: &[&str]) -> Result<()> {
        let hosts = self.authority.directory().join("hosts");
        std::fs::write(&hosts, format!("{} {}\n", address::GATEWAY[0], names.join(" ")))?;
        self.world.client.run(&format!("mount --bind {} /etc/hosts", hosts.display())).map(drop)
    }
}

/// A Gateway of both IP versions with HTTP for every name, and HTTPS for two listeners of different certificates.
fn http_gateway() -> String {
    let [v4, v6] = address::GATEWAY;
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: default}}\nspec:\n  \
         gatewayClassName: sluice\n  infrastructure: {{parametersRef: {{group: sluice.dev, kind: SluiceConfig, name: edge}}}}\n  addresses:\n  - {{type: IPAddress, value: '{v4}'}}\n  - {{type: IPAddress, value: '{v6}'}}\n  \
         listeners:\n  - {{name: http, protocol: HTTP, port: {PORT}}}\n  \
         - {{name: shop, protocol: HTTPS, port: {TLS_PORT}, tls: {{certificateRefs: [{{name: shop}}]}}}}\n  \
         - {{name: app, protocol: HTTPS, port: {TLS_PORT}, hostname: {APP}, tls: {{certificateRefs: [{{name: app}}]}}}}\n"
    )
}

/// A Service whose endpoints speak HTTP/2 in the clear.
pub fn in_h2(service: &str) -> String {
    service.replace("protocol: TCP,", "protocol: TCP, appProtocol: kubernetes.io/h2c,")
}

/// A server of tests/clients/go: `web` or `rpc-serve`.
pub fn server(node: &Node, kind: &str, name: &str, port: u16) -> Result<Process> {
    let mut command = node.command(go_program()?);
    command.args([kind, "-listen", &format!(":{port}"), "-name", name]);
    let mut server = node.spawn(kind, command)?;
    wait_for("a server to be ready", Duration::from_secs(5), || match server.ended()? {
        Some(status) => Ok(Err(anyhow::anyhow!("it ended with {status}: {}", server.log()))),
        None => server.log().contains("ready").then_some(Ok(())).context("it says nothing"),
    })??;
    Ok(server)
}
