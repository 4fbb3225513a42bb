//! The demo's TLS: names that pass through the kernel, and one that ends at the gateway.

use anyhow::{Context, Result, ensure};
use gateway_tests::lab::{Agent, World, address};
use tabled::settings::Style;
use tabled::{Table, Tabled};

use super::client::{Client, Share, share_of_ten};
use super::{entry_with, note, title};
use crate::examples::{APP, AUDIT, Examples, NOBODY, SHOP, WWW};

const CONNECTIONS: usize = 1_000;

pub fn show(world: &World, agent: &Agent, examples: &Examples) -> Result<()> {
    examples.name_addresses(&world.client)?;
    let client = Client { world, examples };

    title("TLS by server name: the kernel reads it, and passes the connection on unopened");
    client.typed(&["curl", "-sS", "-4", &format!("https://{SHOP}/")])?;
    client.typed(&["curl", "-sS", "-6", &format!("https://{SHOP}/")])?;
    client.typed(&["curl", "-sS", "-4", &format!("https://{APP}/")])?;
    client.typed(&["curl", "-sS", "-4", &format!("https://{WWW}/")])?;
    note(
        "No certificate is on the gateway but that of www.example, which shares port 443 with the others and ends there.",
    );
    let rows = [SHOP, APP, AUDIT, WWW].map(|name| client.certificate(name)).into_iter().collect::<Result<Vec<_>>>()?;
    println!("{}", Table::new(rows).with(Style::sharp()));

    title("PROXY protocol: a backend on another host, told who the client is");
    let said = client.typed(&["curl", "-sS", "-4", &format!("https://{AUDIT}/tls")])?;
    let proxied = format!("proxied={}:", address::CLIENT[0]);
    ensure!(said.contains(&proxied), "{AUDIT} should have said {proxied}");

    title("A name that nobody serves");
    let refusal = client.refused(&["curl", "-sS", "-4", &format!("https://{NOBODY}/")])?;
    ensure!(
        refusal.contains("reset by peer") || refusal.contains("Connection reset"),
        "{NOBODY} should have been refused with RST"
    );

    title("A canary by weight, over TLS");
    println!("{}", Table::new(client.canary()?).with(Style::sharp()));

    title("sluice maps sni");
    print!("{}", agent.sluice("maps sni")?);
    let from = address::CLIENT[0];
    for name in [SHOP, AUDIT, NOBODY] {
        let arguments = format!("trace --sni {name} --from {from}");
        title(&format!("sluice {arguments}"));
        print!("{}", agent.sluice(&arguments)?);
    }
    title("bpftool map dump pinned /sys/fs/bpf/sluice/SNI (one entry)");
    let dump = world.gateway.run("bpftool map dump pinned /sys/fs/bpf/sluice/SNI")?;
    print!("{}", entry_with(&dump, &format!("\"name\": \"{SHOP}\""))?);
    Ok(())
}

#[derive(Tabled)]
struct Certificate {
    name: &'static str,
    certificate: String,
    verification: String,
    version: String,
}

impl Client<'_> {
    /// What openssl sees of a name.
    fn certificate(&self, name: &'static str) -> Result<Certificate> {
        let connect = format!("{name}:443");
        let words = ["openssl", "s_client", "-4", "-brief", "-verify_hostname", name, "-connect", &connect];
        let output = self.command(&words)?.output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = |what: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(what));
            line.map(|line| line.trim().to_owned()).with_context(|| format!("`{}` said:\n{text}", words.join(" ")))
        };
        let certificate = Certificate {
            name,
            certificate: said("Peer certificate:")?,
            verification: said("Verification:")?,
            version: said("Protocol version:")?,
        };
        ensure!(certificate.verification == "OK", "the certificate of {name} is not the right one:\n{text}");
        Ok(certificate)
    }

    /// One curl, and a connection for each request: the servers close them.
    fn canary(&self) -> Result<Vec<Share>> {
        let url = format!("https://{SHOP}/#[1-{CONNECTIONS}]");
        let output = self.command(&["curl", "-sS", "-4", &url])?.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "curl ended with {}: {}", output.status, error.trim_end());
        share_of_ten(&text, ["shop-stable", "shop-canary"], CONNECTIONS)
    }
}
