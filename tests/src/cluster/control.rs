//! The control plane: a place of its own with a bridge that joins the nodes, etcd, the API server, the controllers and the scheduler.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::KeyPair;

use super::place::Place;
use super::plan::{Family, families};
use super::state::State;
use super::{Tools, text};
use crate::lab::wait_for;

pub const NAME: &str = "control";
/// The bridge that the nodes are on.
pub const BRIDGE: &str = "nodes";

/// Who may say they are whom. A token is its owner's name: the API server is seen in the cluster's namespaces only.
const USERS: &[(&str, &str)] =
    &[("admin", "system:masters"), ("system:kube-controller-manager", ""), ("system:kube-scheduler", "")];

/// What is told of each request of the agent, and of nobody else's: who asked for what.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
                     - {level: Metadata, users: ['system:serviceaccount:sluice-system:sluice']}\n- {level: None}\n";

/// The files of the control plane.
pub struct Files {
    folder: PathBuf,
    cluster: PathBuf,
}

impl Files {
    pub fn new(state: &State) -> Files {
        Files { folder: state.folder().join(NAME), cluster: state.folder().to_owned() }
    }

    fn certificates(&self) -> PathBuf {
        self.folder.join("certificates")
    }

    /// The API server's certificate and that of the authority it made for it.
    pub fn authority(&self) -> PathBuf {
        self.certificates().join("apiserver.crt")
    }

    /// The requests of the agent, a JSON object a line.
    pub fn audit(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    pub fn log(&self, program: &str) -> PathBuf {
        self.folder.join(format!("{program}.log"))
    }

    /// How a user reaches the API server.
    pub fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let path = match user {
            "admin" => self.cluster.join("kubeconfig"),
            _ => self.folder.join(format!("{}.kubeconfig", user.replace(':', "-"))),
        };
        let server = Family::V4.control();
        let config = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: sluice\n  cluster:\n    server: https://{server}\n    certificate-authority: {}\n\
             users:\n- name: {user}\n  user: {{token: {user}}}\ncontexts:\n- name: sluice\n  context: {{cluster: sluice, user: {user}}}\n\
             current-context: sluice\n",
            self.authority().display()
        );
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Makes the place, and starts all but the controllers: they want an API server that answers.
pub fn begin(state: &State, tools: &Tools, nodes: &[String], dual_stack: bool) -> Result<Place> {
    let files = Files::new(state);
    fs::create_dir_all(&files.folder).with_context(|| format!("cannot make {}", files.folder.display()))?;
    let place = Place::new(NAME, "ip link set lo up", |life| state.record(NAME, life))?;
    lay_network(&place, dual_stack)?;
    let etcd = [
        format!("--data-dir={}", text(&files.folder.join("etcd"))?),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // What a crash of the machine would lose is thrown away then anyhow.
        "--unsafe-no-fsync".to_owned(),
    ];
    place.start(&files.log("etcd"), &tools.program("etcd"), &etcd)?;
    start_api_server(&place, &files, tools, nodes, dual_stack)?;
    Ok(place)
}

fn lay_network(place: &Place, dual_stack: bool) -> Result<()> {
    let network = place.network()?;
    network.ip(&format!("link add {BRIDGE} type bridge\nlink set {BRIDGE} up"))?;
    for family in families(dual_stack) {
        let (address, prefix) = (family.control(), family.prefix());
        network.ip(&format!("addr add {address}/{prefix} dev {BRIDGE} {}", nodad(*family)))?;
        // No kube-proxy runs: the one Service that everybody needs is where its address is.
        network.ip(&format!("addr add {} dev lo", family.api_service()))?;
    }
    network.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
}

/// An address is used at once, not after a second of asking whether somebody else has it.
pub fn nodad(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => "nodad",
    }
}

fn start_api_server(place: &Place, files: &Files, tools: &Tools, nodes: &[String], dual_stack: bool) -> Result<()> {
    let tokens = files.folder.join("tokens.csv");
    let users = USERS.iter().map(|(user, group)| format!("{user},{user},{user},{group}\n"));
    let kubelets = nodes.iter().map(|node| format!("{0},{0},{0},system:nodes\n", kubelet_user(node)));
    fs::write(&tokens, users.chain(kubelets).collect::<String>())?;
    let key = KeyPair::generate()?;
    fs::write(files.folder.join("accounts.key"), key.serialize_pem())?;
    fs::write(files.folder.join("accounts.pub"), key.public_key_pem())?;
    let policy = files.folder.join("audit.yaml");
    fs::write(&policy, AUDIT)?;
    let services: Vec<&str> = families(dual_stack).iter().map(|family| family.services()).collect();
    let arguments = [
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--service-cluster-ip-range={}", services.join(",")),
        format!("--cert-dir={}", text(&files.certificates())?),
        format!("--token-auth-file={}", text(&tokens)?),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", text(&files.folder.join("accounts.pub"))?),
        format!("--service-account-signing-key-file={}", text(&files.folder.join("accounts.key"))?),
        format!("--advertise-address={}", Family::V4.control()),
        format!("--bind-address={}", if dual_stack { "::" } else { "0.0.0.0" }),
        // That of the Service, since nothing translates it.
        "--secure-port=443".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", text(&policy)?),
        format!("--audit-log-path={}", text(&files.audit())?),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
    ];
    place.start(&files.log("kube-apiserver"), &tools.program("kube-apiserver"), &arguments)
}

pub fn kubelet_user(node: &str) -> String {
    format!("system:node:{node}")
}

/// Waits for the API server and starts what works through it.
pub fn finish(place: &Place, state: &State, tools: &Tools) -> Result<()> {
    let files = Files::new(state);
    let admin = files.kubeconfig("admin")?;
    let ready = || {
        let answer =
            place.run(&tools.program("kubectl"), &["--kubeconfig", text(&admin)?, "get", "--raw", "/readyz"])?;
        ensure!(answer.trim() == "ok", "it says {answer}");
        Ok(())
    };
    wait_for("the API server", Duration::from_secs(60), ready)
        .with_context(|| last_lines(&files.log("kube-apiserver")))?;
    let kubeconfig = |user: &str| -> Result<String> { Ok(format!("--kubeconfig={}", text(&files.kubeconfig(user)?)?)) };
    let controllers = [
        kubeconfig("system:kube-controller-manager")?,
        format!("--service-account-private-key-file={}", text(&files.folder.join("accounts.key"))?),
        format!("--root-ca-file={}", text(&files.authority())?),
        "--use-service-account-credentials=true".to_owned(),
        "--allocate-node-cidrs=false".to_owned(),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    place.start(&files.log("kube-controller-manager"), &tools.program("kube-controller-manager"), &controllers)?;
    let scheduler = [
        kubeconfig("system:kube-scheduler")?,
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    place.start(&files.log("kube-scheduler"), &tools.program("kube-scheduler"), &scheduler)
}

/// The end of a log, for an error.
pub fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("{} ends with:\n{}", log.display(), lines[lines.len().saturating_sub(8)..].join("\n"))
}
