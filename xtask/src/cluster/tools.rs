//! The programs of the cluster: built by Go from the modules in tests/cluster-tools, once for all clones on a machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gateway_tests::cluster::{PAUSE, Tools};
use tempfile::TempDir;

use super::archive::{self, Image};
use crate::setup::{self, Part};
use crate::shell;

/// One module each, or the dependencies of one would change those of another.
const KUBERNETES: &str = "kubernetes";
const MODULES: &[&str] = &["etcd", "containerd", "cni", "pause", KUBERNETES];

const HELM: &str = "helm";
const HELM_PACKAGE: &str = "helm.sh/helm/v3/cmd/helm";

/// Module, package, and where the program goes.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("etcd", "go.etcd.io/etcd/server/v3", "etcd"),
    ("containerd", "github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
    ("containerd", "github.com/containerd/containerd/v2/cmd/containerd", "containerd"),
    ("containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", "containerd-shim-runc-v2"),
    ("cni", "github.com/containernetworking/plugins/plugins/main/ptp", "cni/ptp"),
    ("cni", "github.com/containernetworking/plugins/plugins/main/loopback", "cni/loopback"),
    ("cni", "github.com/containernetworking/plugins/plugins/ipam/host-local", "cni/host-local"),
    ("pause", ".", "pause"),
    (KUBERNETES, "k8s.io/kubernetes/cmd/kubectl", "kubectl"),
    (KUBERNETES, "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
    (KUBERNETES, "k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
    (KUBERNETES, "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
    (KUBERNETES, "k8s.io/kubernetes/cmd/kubelet", "kubelet"),
];

/// File systems of containerd's that are not used, and would want headers of C libraries.
const TAGS: &str = "no_btrfs,no_zfs,no_devmapper";

/// Finds the programs, or builds them: some minutes, the first time.
pub fn ensure() -> Result<Tools> {
    setup::ensure(&[Part::Cluster])?;
    Ok(Tools::at(&cached("cluster-tools", &sources_text()?, build)?))
}

/// The program that installs charts; apart from the others, for a cluster does without.
pub fn helm() -> Result<PathBuf> {
    setup::ensure(&[Part::Cluster])?;
    let module = sources().join(HELM);
    let flags = helm_flags()?;
    let sources = module_text(HELM).chain(flags.bytes()).collect::<Vec<u8>>();
    let build = |folder: &Path| {
        go_build("go build helm (about a minute on two cores)", &module, HELM_PACKAGE, &flags, &folder.join(HELM))
    };
    Ok(cached(HELM, &sources, build)?.join(HELM))
}

/// The image that every node needs before its first pod.
pub fn pause(tools: &Tools) -> PathBuf {
    tools.folder().join("pause.tar")
}

/// A folder with what was built from sources like these, once for all clones on this machine. `build` fills it.
pub fn cached(name: &str, sources: &[u8], build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let folder = cache.join(format!("{name}-{}", &archive::sha256(sources)[..16]));
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    // In its place only when whole.
    let unfinished = TempDir::with_prefix_in(format!("{name}-"), &cache)?;
    build(unfinished.path())?;
    match fs::rename(unfinished.path(), &folder) {
        // Somebody else was faster.
        Err(_) if folder.is_dir() => {}
        result => result.with_context(|| format!("cannot make {}", folder.display()))?,
    }
    Ok(folder)
}

/// A folder of this machine's that outlives a clone.
fn cache() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from).or_else(home);
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set: there is no place for what is built once")?
        .join("sluice"))
}

fn sources() -> PathBuf {
    shell::root().join("tests/cluster-tools")
}

/// Other versions, other programs.
fn sources_text() -> Result<Vec<u8>> {
    let mut all = format!("{PROGRAMS:?} {TAGS}").into_bytes();
    all.extend(MODULES.iter().flat_map(|module| module_text(module)));
    Ok(all)
}

/// Not every module has all three.
fn module_text(module: &str) -> impl Iterator<Item = u8> + use<> {
    let files = ["go.mod", "go.sum", "main.go"].map(|file| sources().join(module).join(file));
    files.into_iter().flat_map(|file| fs::read(file).unwrap_or_default())
}

fn build(folder: &Path) -> Result<()> {
    let flags = linker_flags()?;
    for (done, (module, package, program)) in PROGRAMS.iter().enumerate() {
        let target = folder.join(program);
        let what =
            format!("go build {program} ({} of {}; about 6 minutes in all on two cores)", done + 1, PROGRAMS.len());
        go_build(&what, &sources().join(module), package, &flags, &target)?;
    }
    let pause = Image::of_program(&folder.join("pause"), "/pause", &[PAUSE]);
    archive::write(&folder.join("pause.tar"), &pause)
}

/// Builds a static program.
pub fn go_build(what: &str, module: &Path, package: &str, linker_flags: &str, target: &Path) -> Result<()> {
    let mut go = shell::command("go");
    go.current_dir(module).env("CGO_ENABLED", "0");
    go.args(["build", "-trimpath", "-tags", TAGS, "-ldflags", linker_flags, "-o"]);
    shell::step(what, go.arg(target).arg(package))
}

/// Programs of Kubernetes say the version that their module has: clients look at it.
fn linker_flags() -> Result<String> {
    let [version, major, minor] = kubernetes()?;
    let package = "k8s.io/component-base/version";
    Ok(format!(
        "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
    ))
}

/// Of which Kubernetes helm takes a chart to be for, where it does not ask an API server.
fn helm_flags() -> Result<String> {
    let [_, major, minor] = kubernetes()?;
    let package = "helm.sh/helm/v3/pkg";
    let of = |place: &str| {
        format!("-X {package}/{place}.k8sVersionMajor={major} -X {package}/{place}.k8sVersionMinor={minor}")
    };
    Ok(format!("-s -w {} {}", of("lint/rules"), of("chartutil")))
}

/// Its version, and the first two numbers of it.
fn kubernetes() -> Result<[String; 3]> {
    let path = sources().join(KUBERNETES).join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let version = text.split_whitespace().skip_while(|word| *word != "k8s.io/kubernetes").nth(1);
    let version = version.with_context(|| format!("{} does not require k8s.io/kubernetes", path.display()))?;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    ensure!(!minor.is_empty(), "{}: k8s.io/kubernetes has the version {version:?}", path.display());
    Ok([version.to_owned(), major.to_owned(), minor.to_owned()])
}
