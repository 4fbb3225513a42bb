//! TLS passthrough: the world with TLS servers in it, and a Gateway that routes by server name.

mod agent;
mod bulk;
mod clients;
mod ends;
mod faults;
mod floods;
mod hello;
mod inside;
mod lifecycle;
mod mixed;
mod names;
mod told;
mod xdp;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;

use gateway_tests::client::{Answer, PATIENCE};
use gateway_tests::lab::{
    Agent, Keep, Manifests, Node, Process, Serving, TlsListener, Wired, World, address, proxied, service, slice,
    tls_gateway, tls_route, wait_for,
};
use gateway_tests::server::{Options, Tls};
use gateway_tests::tls::{self, Authority, Identity};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::bed::ready;

/// The listener of [`TlsBed`].
pub const PORT: u16 = 443;
/// Where the servers listen, with and without PROXY protocol.
pub const SERVER: u16 = 8443;
pub const PROXIED: u16 = 8444;
/// Where they speak without TLS.
pub const PLAIN: u16 = 8080;
/// Where servers that a test starts itself listen.
pub const OWN: u16 = 9443;

/// What the servers send as `/file`, in the authority's directory: whoever asks for it makes it.
pub const FILE: &str = "file";

/// Client, gateway, pods and remote host, with a TLS server on the latter three, and manifests: `pod-1.test`, `pod-2.test` and
/// `remote.test` lead to the server of that name, `proxied-….test` to the same behind a PROXY protocol header, `own-….test` to port
/// [`OWN`] there, `canary.test` to pod-1 and pod-2 as 90 to 10, `*.wild.test` to pod-2.
pub struct TlsBed {
    pub world: World,
    pub manifests: Manifests,
    pub authority: Authority,
    /// Trusts the authority.
    pub client: Arc<ClientConfig>,
    pub identities: [Identity; 3],
    _servers: Vec<Serving>,
}

/// The backends, by name.
pub const SITES: [(&str, [IpAddr; 2]); 3] =
    [("pod-1", address::POD_1), ("pod-2", address::POD_2), ("remote", address::REMOTE)];

impl TlsBed {
    pub fn new() -> TlsBed {
        TlsBed::wired(Wired::default())
    }

    /// With wires in it that can lose segments.
    pub fn wired(wired: Wired) -> TlsBed {
        let world = World::wired(Keep::UntilDrop, wired).unwrap();
        let authority = Authority::new().unwrap();
        let identities = SITES.map(|(name, addresses)| {
            let own = ["", "proxied-", "own-"].map(|prefix| format!("{prefix}{name}.test"));
            let direct = addresses.map(|address| address.to_string());
            let gateways = address::GATEWAY.map(|address| address.to_string());
            let all = own.iter().chain(&direct).chain(&gateways).map(String::as_str);
            let names: Vec<&str> = all.chain(["canary.test", "*.wild.test", "*.sub.wild.test"]).collect();
            authority.identity(name, &names).unwrap()
        });
        let client = Arc::new(authority.client().unwrap());
        let nodes = [&world.pods[0], &world.pods[1], &world.remote];
        let serve = |(node, identity): (&Node, &Identity)| {
            let tls = Tls { port: SERVER, proxied_port: PROXIED, config: identity.server().unwrap() };
            let file = Some(authority.directory().join(FILE));
            let name = node.name().to_owned();
            let options = Options { name, tcp: PLAIN, tls: Some(tls), file, ..Options::default() };
            Serving::start(node, options).unwrap()
        };
        let servers = nodes.into_iter().zip(&identities).map(serve).collect();
        let bed =
            TlsBed { world, manifests: Manifests::new().unwrap(), authority, client, identities, _servers: servers };
        bed.publish();
        bed
    }

    fn publish(&self) {
        let listener = TlsListener { name: "tls", port: PORT, hostname: None, secret: None };
        let mut documents = vec![tls_gateway("edge", &address::GATEWAY, &[listener])];
        let mut route = |name: &str, hostnames: &[&str], backends: &[(&str, u16, u32)]| {
            documents.push(tls_route(name, ("edge", "tls"), hostnames, backends));
        };
        for (name, _) in SITES {
            for (prefix, port) in [("", SERVER), ("proxied-", PROXIED), ("own-", OWN)] {
                let name = format!("{prefix}{name}");
                route(&name, &[&format!("{name}.test")], &[(&name, port, 1)]);
            }
        }
        route("canary", &["canary.test"], &[("pod-1", SERVER, 90), ("pod-2", SERVER, 10)]);
        route("wild", &["*.wild.test"], &[("pod-2", SERVER, 1)]);
        for (name, addresses) in SITES {
            for (prefix, port) in [("", SERVER), ("proxied-", PROXIED), ("own-", OWN)] {
                let name = format!("{prefix}{name}");
                let plain = service(&name, "TCP", port);
                documents.push(if port == PROXIED { proxied(&plain) } else { plain });
                documents.push(slice(&name, "TCP", port, &ready(&[addresses])));
            }
        }
        self.manifests.write("tls.yaml", &documents).unwrap();
    }

    /// Starts the agent; the manifests are in the maps when this returns.
    pub fn agent(&self) -> Agent<'_> {
        Agent::start(&self.world.gateway, self.manifests.path()).unwrap()
    }

    pub fn node(&self, site: &str) -> &Node {
        match site {
            "pod-1" => &self.world.pods[0],
            "pod-2" => &self.world.pods[1],
            _ => &self.world.remote,
        }
    }

    pub fn identity(&self, site: &str) -> &Identity {
        let index = SITES.iter().position(|(name, _)| *name == site).unwrap();
        &self.identities[index]
    }

    /// Asks from the client who `name` is.
    pub fn who(&self, target: SocketAddr, name: &str) -> io::Result<Answer> {
        self.world.client.block_on(|| tls::who(target, name, &self.client))
    }

    /// The authority's certificate, for programs that read files.
    pub fn ca(&self) -> String {
        self.authority.file().display().to_string()
    }
}

/// A server and a way to it.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub site: &'static str,
    pub target: SocketAddr,
    pub direct: bool,
}

impl Path {
    /// The server's name behind this prefix.
    pub fn name(&self, prefix: &str) -> String {
        format!("{prefix}{}.test", self.site)
    }
}

/// Both versions, first straight to a pod as the measure, then through the gateway to a pod and to a remote host. The port is that of
/// the server, which the Gateway's listener stands for.
pub fn everywhere(bed: &TlsBed, port: u16, test: impl Fn(&TlsBed, Path)) {
    for address in address::POD_1 {
        test(bed, Path { site: "pod-1", target: (address, port).into(), direct: true });
    }
    let _agent = bed.agent();
    for path in through_gateway() {
        test(bed, path);
    }
}

/// The ways of [`everywhere`] that lead through the gateway.
pub fn through_gateway() -> impl Iterator<Item = Path> {
    let site = |site| on_gateway().map(|target| Path { site, target, direct: false });
    ["pod-1", "remote"].into_iter().flat_map(site)
}

/// The Gateway's listener, once for each IP version.
pub fn on_gateway() -> [SocketAddr; 2] {
    crate::bed::on_gateway(PORT)
}

/// A client whose hello goes step by step.
pub struct Stepwise {
    pub stream: TcpStream,
    pub hello: Vec<u8>,
    tls: ClientConnection,
}

impl Stepwise {
    pub fn connect(bed: &TlsBed, target: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Stepwise> {
        let stream = bed.world.client.enter(|| TcpStream::connect_timeout(&target, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut hello = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut hello)?;
        }
        Ok(Stepwise { stream, hello, tls })
    }

    /// Goes on as any client once the hello is sent, and asks the server what the handshake agreed on.
    pub fn finish(self) -> io::Result<String> {
        let mut stream = StreamOwned::new(self.tls, self.stream);
        stream.write_all(b"GET /tls HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Runs a program on a node to its end, with this input. Ok: its standard output; Err: all that it said.
pub fn run(node: &Node, program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = node.command("timeout");
    command.args(["180", program]).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may not want any.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments:?} ended with {}:\n{said}{error}", output.status))
}

/// The program of tests/clients/go.
pub fn go_program() -> &'static str {
    gateway_tests::lab::go_program().unwrap()
}

/// The HTTP/2 server of tests/clients/go on port [`OWN`] of a site.
pub fn go_server(bed: &TlsBed, site: &str, more: &[&str]) -> Process {
    let identity = bed.identity(site);
    let mut command = bed.node(site).command(go_program());
    command.args(["serve", "-listen", &format!(":{OWN}"), "-name", site, "-certificate"]);
    command.arg(&identity.certificate_file).arg("-key").arg(&identity.key_file).args(more);
    let server = bed.node(site).spawn("the HTTP/2 server", command).unwrap();
    ready_when(&server, "ready");
    server
}

/// Waits until a process has said this.
pub fn ready_when(process: &Process, said: &str) {
    wait_for("a server to be ready", PATIENCE, || {
        if process.log().contains(said) { Ok(()) } else { Err(anyhow::anyhow!("{}", process.log())) }
    })
    .unwrap();
}
