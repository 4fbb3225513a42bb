//! Writing manifests for the agent: a directory, and the objects that most tests need.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;

use super::world::address;

/// A directory of manifests; files are renamed into place, so that the agent sees each change as one.
pub struct Manifests {
    directory: TempDir,
}

impl Manifests {
    pub fn new() -> Result<Manifests> {
        let directory = tempfile::Builder::new().prefix("sluice-manifests-").tempdir()?;
        let manifests = Manifests { directory };
        manifests.write("class.yaml", &[CLASS.to_owned()])?;
        Ok(manifests)
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts documents into a file in one step.
    pub fn write(&self, file: &str, documents: &[String]) -> Result<()> {
        self.replace(file, &documents.join("---\n"))
    }

    /// Puts text into a file in one step.
    pub fn replace(&self, file: &str, text: &str) -> Result<()> {
        let new = self.path().join(format!(".{file}.new"));
        std::fs::write(&new, text)?;
        std::fs::rename(&new, self.path().join(file)).context("cannot rename a manifest into place")
    }

    pub fn remove(&self, file: &str) -> Result<()> {
        std::fs::remove_file(self.path().join(file)).with_context(|| format!("cannot remove {file}"))
    }
}

const CLASS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec: {controllerName: sluice.dev/gateway-controller}
";

/// A Gateway in the namespace `default`; listeners as (name, TCP or UDP, port).
pub fn gateway(name: &str, addresses: &[&str], listeners: &[(&str, &str, u16)]) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  gatewayClassName: sluice\n  addresses:\n"
    );
    for address in addresses {
        text += &format!("  - {{type: IPAddress, value: '{address}'}}\n");
    }
    text += "  listeners:\n";
    for (name, protocol, port) in listeners {
        text += &format!("  - {{name: {name}, protocol: {protocol}, port: {port}}}\n");
    }
    text
}

/// A route of kind TCPRoute or UDPRoute to services as (name, port, weight).
pub fn route(kind: &str, name: &str, (gateway, section): (&str, &str), backends: &[(&str, u16, u32)]) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  parentRefs:\n  - {{name: {gateway}, sectionName: {section}}}\n  rules:\n  - backendRefs:\n"
    );
    for (service, port, weight) in backends {
        text += &format!("    - {{name: {service}, port: {port}, weight: {weight}}}\n");
    }
    text
}

/// A TLS listener.
#[derive(Clone, Copy, Debug)]
pub struct TlsListener<'a> {
    pub name: &'a str,
    pub port: u16,
    pub hostname: Option<&'a str>,
    /// The Secret it ends TLS with; None: it lets TLS pass.
    pub secret: Option<&'a str>,
}

/// A Gateway in the namespace `default` with TLS listeners.
pub fn tls_gateway(name: &str, addresses: &[IpAddr], listeners: &[TlsListener]) -> String {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut text = gateway(name, &addresses, &[]);
    for TlsListener { name, port, hostname, secret } in listeners {
        text += &format!("  - name: {name}\n    protocol: TLS\n    port: {port}\n");
        if let Some(hostname) = hostname {
            text += &format!("    hostname: '{hostname}'\n");
        }
        text += &match secret {
            None => "    tls: {mode: Passthrough}\n".to_owned(),
            Some(secret) => format!("    tls: {{mode: Terminate, certificateRefs: [{{name: {secret}}}]}}\n"),
        };
    }
    text
}

/// A TLSRoute to services as (name, port, weight).
pub fn tls_route(
    name: &str,
    (gateway, section): (&str, &str),
    hostnames: &[&str],
    backends: &[(&str, u16, u32)],
) -> String {
    let text = route("TLSRoute", name, (gateway, section), backends);
    let text = text.replace("gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1");
    let hostnames: Vec<String> = hostnames.iter().map(|name| format!("'{name}'")).collect();
    text.replace("spec:\n", &format!("spec:\n  hostnames: [{}]\n", hostnames.join(", ")))
}

/// A Secret with a certificate and its key, both PEM.
pub fn tls_secret(name: &str, certificate: &Path, key: &Path) -> Result<String> {
    let encoded = |path: &Path| -> Result<String> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(BASE64_STANDARD.encode(text))
    };
    Ok(format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: kubernetes.io/tls\n\
         data:\n  tls.crt: {}\n  tls.key: {}\n",
        encoded(certificate)?,
        encoded(key)?
    ))
}

/// A ConfigMap with certificates to check others with, PEM.
pub fn config_map(name: &str, authorities: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(authorities).with_context(|| format!("cannot read {}", authorities.display()))?;
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    Ok(format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata:\n  ca.crt: |\n{indented}"
    ))
}

/// The same Service, whose endpoints want a PROXY protocol v2 header.
pub fn proxied(service: &str) -> String {
    service.replace("namespace: default}", "namespace: default, annotations: {sluice.dev/proxy-protocol: v2}}")
}

/// A Service with one port, which is also the target port.
pub fn service(name: &str, protocol: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  ports:\n  - {{name: main, protocol: {protocol}, port: {port}, targetPort: {port}}}\n"
    )
}

/// An endpoint of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    pub address: IpAddr,
    /// `nodeName`: where it runs.
    pub node: &'static str,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Endpoint {
    /// Of the world's pods or of its remote host.
    pub fn ready(address: IpAddr) -> Endpoint {
        let is_pod = address::POD_1.contains(&address) || address::POD_2.contains(&address);
        let node = if is_pod { address::NODE_NAME } else { "elsewhere" };
        Endpoint { address, node, ready: true, serving: true, terminating: false }
    }

    /// Terminating, but still answering: it keeps the connections it has.
    pub fn draining(address: IpAddr) -> Endpoint {
        Endpoint { ready: false, terminating: true, ..Endpoint::ready(address) }
    }
}

/// The EndpointSlices of a service, one for each IP version.
pub fn slice(service: &str, protocol: &str, port: u16, endpoints: &[Endpoint]) -> String {
    let (v4, v6): (Vec<Endpoint>, Vec<Endpoint>) = endpoints.iter().partition(|endpoint| endpoint.address.is_ipv4());
    let of_family = |family: &str, endpoints: &[Endpoint]| {
        let mut text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {service}}}\naddressType: {family}\n\
             ports:\n- {{name: main, protocol: {protocol}, port: {port}}}\nendpoints:{}\n",
            family.to_lowercase(),
            if endpoints.is_empty() { " []" } else { "" }
        );
        for Endpoint { address, node, ready, serving, terminating } in endpoints {
            text += &format!(
                "- addresses: ['{address}']\n  nodeName: {node}\n  conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}\n"
            );
        }
        text
    };
    [of_family("IPv4", &v4), of_family("IPv6", &v6)].join("---\n")
}

/// A Namespace.
pub fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}
