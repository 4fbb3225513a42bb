//! The API server, spoken to over one connection that is kept: `kubectl` takes longer to start than what is to be timed.

use std::io::BufReader;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::http::exchange;
use super::plan::Family;
use super::{Cluster, control};

const ANSWER: Duration = Duration::from_secs(60);
/// Whose token is their name (`control::USERS`).
const USER: &str = "admin";

pub struct Api {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    server: IpAddr,
}

impl Api {
    /// As the administrator. The calling thread is in the network of [`Cluster::control`].
    pub fn connect(cluster: &Cluster) -> Result<Api> {
        let server = Family::V4.control();
        let mut roots = RootCertStore::empty();
        let file = control::Files::new(&cluster.state).authority();
        for certificate in CertificateDer::pem_file_iter(&file).context("the API server's certificate")? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect((server, 443)).context("the API server takes no connection")?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(ANSWER))?;
        let tls = ClientConnection::new(Arc::new(config), server.into())?;
        Ok(Api { stream: BufReader::new(StreamOwned::new(tls, tcp)), server })
    }

    pub fn get(&mut self, path: &str) -> Result<Value> {
        self.ask("GET", path, "", &[])
    }

    /// `collection`: such as `/api/v1/namespaces/NAME/services`.
    pub fn create(&mut self, collection: &str, object: &Value) -> Result<()> {
        self.ask("POST", collection, "application/json", object.to_string().as_bytes()).map(drop)
    }

    /// Changes fields of an object.
    pub fn merge(&mut self, path: &str, patch: &Value) -> Result<()> {
        self.ask("PATCH", path, "application/merge-patch+json", patch.to_string().as_bytes()).map(drop)
    }

    /// The same, where lists are merged by what names their items: as the conditions of a pod are.
    pub fn merge_lists(&mut self, path: &str, patch: &Value) -> Result<()> {
        self.ask("PATCH", path, "application/strategic-merge-patch+json", patch.to_string().as_bytes()).map(drop)
    }

    /// An object, or all of a collection.
    pub fn delete(&mut self, path: &str) -> Result<()> {
        self.ask("DELETE", path, "", &[]).map(drop)
    }

    fn ask(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Value> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {USER}\r\nAccept: application/json\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.server,
            body.len()
        );
        if kind.is_empty() {
            request = request.replace("Content-Type: \r\n", "");
        }
        // In one segment, so that nobody waits for the rest.
        let whole = [request.as_bytes(), body].concat();
        let answer = exchange(&mut self.stream, &whole).with_context(|| format!("{method} {path}"))?;
        let text = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(500)]).into_owned();
        ensure!(answer.status < 300, "{method} {path}: {} {}", answer.status, text());
        serde_json::from_slice(&answer.body).with_context(|| format!("{method} {path}: {}", text()))
    }
}
