//! Real TLS through a contender: two names, each with a certificate of its own on one of the backends.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::lab::{Process, wait_for};
use tempfile::TempDir;

use super::super::network::{GATEWAY, Network};
use super::place::{CHECK_NAMES, CHECK_PORT, PORT};
use crate::shell;

pub struct Servers<'n> {
    network: &'n Network,
    folder: TempDir,
    _servers: Vec<Process>,
}

impl<'n> Servers<'n> {
    pub fn start(network: &'n Network) -> Result<Servers<'n>> {
        let mut servers = Servers { network, folder: TempDir::with_prefix("sluice-bench-")?, _servers: Vec::new() };
        for (node, name) in network.backends.iter().zip(CHECK_NAMES) {
            servers.certificate(name)?;
            let mut openssl = node.command("openssl");
            openssl.args(["s_server", "-quiet", "-www", "-accept", &CHECK_PORT.to_string()]);
            openssl.arg("-cert").arg(servers.path(name, "pem")).arg("-key").arg(servers.path(name, "key"));
            let mut server = node.spawn("openssl s_server", openssl)?;
            wait_for("openssl s_server", Duration::from_secs(5), || {
                ensure!(server.ended()?.is_none(), "it has ended:\n{}", server.log());
                let listening = node.run(&format!("ss -Hltn sport = :{CHECK_PORT}"))?;
                ensure!(!listening.is_empty(), "port {CHECK_PORT} is closed");
                Ok(())
            })?;
            servers._servers.push(server);
        }
        Ok(servers)
    }

    /// A handshake for each name, whose certificate must be the right one.
    pub fn through_gateway(&self) -> Result<()> {
        for name in CHECK_NAMES {
            let mut openssl = self.network.client.command("openssl");
            openssl.args(["s_client", "-brief", "-connect", &format!("{GATEWAY}:{PORT}"), "-servername", name]);
            openssl.args(["-verify_return_error", "-verify_hostname", name, "-CAfile"]).arg(self.path(name, "pem"));
            let output = openssl.stdin(Stdio::null()).output().context("cannot start openssl")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success() && said.contains("Verification: OK"),
                "openssl s_client -servername {name} ended with {}:\n{}",
                output.status,
                said.trim_end()
            );
        }
        Ok(())
    }

    fn certificate(&self, name: &str) -> Result<()> {
        let mut openssl = shell::command("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        openssl.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
        openssl.arg("-out").arg(self.path(name, "pem")).arg("-keyout").arg(self.path(name, "key"));
        shell::output(&mut openssl).map(drop)
    }

    fn path(&self, name: &str, end: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.{end}"))
    }
}
