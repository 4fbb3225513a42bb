//! The demo's HTTP: a canary, a header, a redirect, two certificates, gRPC, a WebSocket.

use anyhow::{Context, Result, ensure};
use gateway_tests::lab::{World, go_program};
use tabled::Table;
use tabled::settings::Style;

use super::client::{Client, Share, share_of_ten};
use super::{note, title};
use crate::examples::{ADMIN, Examples, RPC, STORE};

const REQUESTS: usize = 1_000;

pub fn show(world: &World, examples: &Examples) -> Result<()> {
    let client = Client { world, examples };

    title("HTTP: who answers, and what does it know of the client?");
    for option in ["-4", "-6"] {
        client.typed(&["curl", "-sS", option, &format!("http://{STORE}/")])?;
    }
    client.typed(&["curl", "-sS", "--http2-prior-knowledge", &format!("http://{STORE}/")])?;

    title("A canary by weight, and by a header");
    println!("{}", Table::new(canary(&client)?).with(Style::sharp()));
    let said = client.typed(&["curl", "-sS", "-H", "X-Version:canary", &format!("http://{STORE}/")])?;
    ensure!(said.starts_with("store-canary "), "the header should have led to store-canary");

    title("A redirect");
    let url = format!("http://{STORE}/cart");
    let said = client.typed(&["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}→%{redirect_url}\\n", &url])?;
    let wanted = format!("301→https://{STORE}/basket\n");
    ensure!(said == wanted, "it should have been {wanted}");

    title("HTTPS: two names, two certificates, HTTP/2 by ALPN");
    for (name, path, backend) in [(STORE, "/", "store-"), (ADMIN, "/panel/users", "admin ")] {
        let url = format!("https://{name}{path}");
        let said =
            client.typed(&["curl", "-sS", "-w", "HTTP/%{http_version},verified=%{ssl_verify_result}\\n", &url])?;
        ensure!(
            said.starts_with(backend) && said.ends_with("HTTP/2,verified=0\n"),
            "{name} should be served over HTTP/2"
        );
    }
    for name in [STORE, ADMIN] {
        println!("{}", client.subject(name)?);
    }
    note("The backend of admin.example sees /users: the route takes the prefix away.");

    let go = go_program()?;
    title("gRPC: calls of every kind, by gRPC's own interoperability tests");
    let kinds = ["who", "large_unary", "client_streaming", "server_streaming", "ping_pong", "status_code_and_message"];
    let address = format!("{RPC}:80");
    let calls = [&["rpc", "-address", &address, "-name", RPC][..], &kinds].concat();
    let said = client.run(go, &calls)?;
    ensure!(said.matches(" passed").count() == kinds.len(), "not every call has passed");

    title("A WebSocket");
    client.run(go, &["socket", "-url", &format!("ws://{STORE}/socket")])?;
    let ca = examples.ca().display().to_string();
    client.run(go, &["socket", "-url", &format!("wss://{STORE}/socket"), "-ca", &ca])?;
    Ok(())
}

impl Client<'_> {
    /// Runs the program of tests/clients/go, by a name that can be read.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        println!("client# go-client {}", arguments.join(" "));
        let output = self.command(&[&[program], arguments].concat())?.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "it ended with {}: {}", output.status, error.trim_end());
        print!("{said}");
        Ok(said)
    }

    /// Of the certificate that openssl is shown.
    fn subject(&self, name: &str) -> Result<String> {
        let connect = format!("{name}:443");
        let words =
            ["openssl", "s_client", "-brief", "-verify_return_error", "-verify_hostname", name, "-connect", &connect];
        let output = self.command(&words)?.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said.lines().find(|line| line.starts_with("Peer certificate:"));
        line.map(|line| format!("{name}: {line}")).with_context(|| format!("openssl said:\n{said}"))
    }
}

/// One curl, and one connection for all requests: the weights are by request.
fn canary(client: &Client) -> Result<Vec<Share>> {
    let url = format!("http://{STORE}/#[1-{REQUESTS}]");
    let output = client.command(&["curl", "-sS", "-4", &url])?.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "curl ended with {}: {}", output.status, error.trim_end());
    share_of_ten(&text, ["store-stable", "store-canary"], REQUESTS)
}
