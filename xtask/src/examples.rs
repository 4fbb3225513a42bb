//! deploy/examples, ready to be used: a copy that may be changed, the certificates that the manifests do not carry, and the
//! servers that they are about.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use gateway_tests::lab::{Node, Process, World, address, binary, wait_for};
use gateway_tests::tls::{Authority, Identity};
use gateway_tests::web;

use crate::shell;

/// Names of the TLS listeners' routes, and one that nobody serves.
pub const SHOP: &str = "shop.example";
pub const APP: &str = "one.apps.example";
pub const AUDIT: &str = "audit.apps.example";
pub const WWW: &str = "www.example";
pub const NOBODY: &str = "nobody.example";
/// Those of the HTTP listeners' routes.
pub const STORE: &str = "store.example";
pub const ADMIN: &str = "admin.example";
pub const RPC: &str = "rpc.example";

/// A folder with everything in it.
pub struct Examples {
    folder: PathBuf,
    shop: Identity,
    apps: Identity,
    audit: Identity,
    _authority: Authority,
}

impl Examples {
    pub fn new(folder: &Path) -> Result<Examples> {
        let authority = Authority::new()?;
        let examples = Examples {
            folder: folder.to_owned(),
            shop: authority.identity(SHOP, &[SHOP])?,
            apps: authority.identity("apps.example", &["*.apps.example"])?,
            audit: authority.identity(AUDIT, &[AUDIT])?,
            _authority: authority,
        };
        let www = examples._authority.identity(WWW, &[WWW])?;
        std::fs::create_dir_all(examples.manifests())?;
        for entry in std::fs::read_dir(shell::root().join("deploy/examples"))? {
            let entry = entry?;
            std::fs::copy(entry.path(), examples.manifests().join(entry.file_name()))?;
        }
        std::fs::write(examples.manifests().join("www-certificate.yaml"), secret("www-certificate", &www)?)?;
        for (name, host) in [("store-certificate", STORE), ("admin-certificate", ADMIN)] {
            let identity = examples._authority.identity(host, &[host])?;
            std::fs::write(examples.manifests().join(format!("{name}.yaml")), secret(name, &identity)?)?;
        }
        std::fs::copy(examples._authority.file(), examples.ca())?;
        let hosts = |addresses: [IpAddr; 2], names: &[&str]| {
            addresses.map(|address| format!("{address} {}\n", names.join(" "))).concat()
        };
        let hosts = hosts(address::GATEWAY, &[SHOP, APP, AUDIT, WWW, NOBODY])
            + &hosts(address::GATEWAY_2, &[STORE, ADMIN, RPC]);
        std::fs::write(examples.folder.join("hosts"), hosts)?;
        Ok(examples)
    }

    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The certificate that clients are to trust.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Lets programs on the client find the names, as DNS would.
    pub fn name_addresses(&self, client: &Node) -> Result<()> {
        let hosts = self.folder.join("hosts");
        client.run(&format!("mount --bind {} /etc/hosts", hosts.display())).map(drop)
    }

    /// What answers behind the gateway: TCP on 8080 everywhere, DNS on the pods, TLS, and HTTP and gRPC, which are Go's.
    pub fn start_servers(&self, world: &World, file: Option<&Path>) -> Result<Vec<Process>> {
        let [pod_1, pod_2] = &world.pods;
        let mut servers = Vec::new();
        for node in [pod_1, pod_2, &world.remote] {
            let mut options = vec!["--tcp".to_owned(), "8080".to_owned(), "--dns".to_owned(), "5353".to_owned()];
            if let Some(file) = file {
                options.extend(["--file".to_owned(), file.display().to_string()]);
            }
            servers.push(server(node, node.name(), &options)?);
        }
        for (node, name, port, identity) in [
            (pod_1, "shop-stable", ["--tls", "8443"], &self.shop),
            (pod_2, "apps", ["--tls", "8443"], &self.apps),
            (&world.remote, "shop-canary", ["--tls", "8443"], &self.shop),
            (&world.remote, "audit", ["--proxied-tls", "9443"], &self.audit),
        ] {
            let [certificate, key] = [&identity.certificate_file, &identity.key_file];
            let mut options = port.map(str::to_owned).to_vec();
            options.extend(["--certificate".to_owned(), certificate.display().to_string()]);
            options.extend(["--key".to_owned(), key.display().to_string()]);
            servers.push(server(node, name, &options)?);
        }
        for (node, kind, name, port) in [
            (pod_1, "web", "store-stable", 8081),
            (pod_2, "web", "store-canary", 8081),
            (&world.remote, "web", "admin", 8081),
            (pod_1, "rpc-serve", "rpc", 8090),
        ] {
            servers.push(web::server(node, kind, name, port)?);
        }
        for server in &mut servers {
            wait_for("a lab-server to be ready", Duration::from_secs(5), || match server.ended()? {
                Some(status) => Ok(Err(anyhow::anyhow!("it ended with {status}: {}", server.log()))),
                None => server.log().contains("ready").then_some(Ok(())).context("it says nothing"),
            })??;
        }
        Ok(servers)
    }
}

fn server(node: &Node, name: &str, options: &[String]) -> Result<Process> {
    let mut command = node.command(binary("lab-server")?);
    command.arg(name).args(options);
    node.spawn("lab-server", command)
}

/// A Secret for a listener that ends TLS.
fn secret(name: &str, identity: &Identity) -> Result<String> {
    let pem = |file: &Path| -> Result<String> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().map(|line| format!("    {line}\n")).collect())
    };
    Ok(format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: default\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n{}  tls.key: |\n{}",
        pem(&identity.certificate_file)?,
        pem(&identity.key_file)?
    ))
}
