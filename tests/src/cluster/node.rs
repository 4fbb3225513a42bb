//! A node: a place with containerd, a kubelet and the network of its pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::cgroups::{self, Own};
use super::control::{BRIDGE, Files, kubelet_user, last_lines, nodad};
use super::place::Place;
use super::plan::{Family, families, node_name};
use super::state::State;
use super::{Tools, text};
use crate::lab::wait_for;

/// What every pod's first container runs; imported from the images of the cluster's tools.
pub const PAUSE: &str = "localhost/pause:local";

/// What the kubelet would set for the whole machine. It finds them as it wants them in files that are mounted over them.
const KERNEL: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// A node that is being made.
pub struct Making<'a> {
    pub state: &'a State,
    pub tools: &'a Tools,
    pub number: u8,
    /// How many there will be.
    pub nodes: u8,
    pub dual_stack: bool,
}

impl Making<'_> {
    fn name(&self) -> String {
        node_name(self.number)
    }

    fn folder(&self) -> PathBuf {
        self.state.folder().join(self.name())
    }

    fn families(&self) -> &'static [Family] {
        families(self.dual_stack)
    }

    /// Makes the place with its network, and starts containerd and the kubelet.
    pub fn make(&self, control: &Place, images: &[PathBuf]) -> Result<Place> {
        let folder = self.folder();
        for part in ["kubelet", "containerd", "log/pods", "cni", "kernel"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        for (name, value) in KERNEL {
            fs::write(folder.join("kernel").join(name.replace('/', "-")), format!("{value}\n"))?;
        }
        let script = self.script(&cgroups::make(control.life(), &self.name())?)?;
        let place = Place::new(&self.name(), &script, |life| self.state.record(&self.name(), life))?;
        self.lay_network(control, &place)?;
        self.start_containerd(&place)?;
        for image in images {
            load(&place, self.tools, image)?;
        }
        self.start_kubelet(&place)?;
        Ok(place)
    }

    /// Its own view of the file system: everything at the places where people look for it, nothing of it in the machine's.
    fn script(&self, cgroups: &[Own]) -> Result<String> {
        let folder = self.folder();
        let folder = text(&folder)?;
        // A new /sys, which shows the interfaces of this network, covers the machine's cgroups. Only the node's own may be
        // mounted then: runc takes the first mount of a hierarchy that it finds.
        let mut lines = vec!["mount -t tmpfs tmpfs /mnt".to_owned()];
        for (number, own) in cgroups.iter().enumerate() {
            lines.push(format!("mkdir /mnt/{number}\nmount --bind {} /mnt/{number}", text(&own.cgroup)?));
        }
        lines.push("umount -l /sys\nmount -t sysfs sysfs /sys".to_owned());
        if cgroups.len() > 1 {
            lines.push("mount -t tmpfs tmpfs /sys/fs/cgroup".to_owned());
        }
        for (number, own) in cgroups.iter().enumerate() {
            let hierarchy = text(&own.hierarchy)?;
            lines.push(format!("mkdir -p {hierarchy}\nmount --bind /mnt/{number} {hierarchy}\numount /mnt/{number}"));
        }
        lines.push("umount /mnt".to_owned());
        lines.extend([
            "mount -t bpf bpf /sys/fs/bpf".to_owned(),
            "mount -t tmpfs tmpfs /run".to_owned(),
            // A state of the machine's own containerd or kubelet is none of ours.
            "mount -t tmpfs tmpfs /var/lib".to_owned(),
            "mkdir -p /var/lib/kubelet /var/lib/containerd /var/lib/cni".to_owned(),
            format!("mount --bind {folder}/kubelet /var/lib/kubelet"),
            format!("mount --bind {folder}/containerd /var/lib/containerd"),
            format!("mount --bind {folder}/log /var/log"),
        ]);
        for (name, _) in KERNEL {
            lines.push(format!("mount --bind {folder}/kernel/{} /proc/sys/{name}", name.replace('/', "-")));
        }
        lines.push("mount --make-rshared /".to_owned());
        lines.push("ip link set lo up".to_owned());
        Ok(lines.join("\n"))
    }

    fn lay_network(&self, control: &Place, place: &Place) -> Result<()> {
        let (name, number) = (self.name(), self.number);
        let pid = place.life().pid();
        let network = place.network()?;
        let router = control.network()?;
        router
            .ip(&format!("link add {name} type veth peer name eth0 netns {pid}\nlink set {name} master {BRIDGE} up"))?;
        network.ip("link set eth0 up")?;
        network.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        for family in self.families() {
            let (address, prefix) = (family.node(number), family.prefix());
            network.ip(&format!("addr add {address}/{prefix} dev eth0 {}", nodad(*family)))?;
            network.ip(&format!("route add default via {}", family.control()))?;
            for other in (1..=self.nodes).filter(|other| *other != number) {
                network.ip(&format!("route add {} via {}", family.pods(other), family.node(other)))?;
            }
            router.ip(&format!("route add {} via {address}", family.pods(number)))?;
        }
        Ok(())
    }

    fn start_containerd(&self, place: &Place) -> Result<()> {
        let folder = self.folder();
        let ranges: Vec<Value> =
            self.families().iter().map(|family| json!([{"subnet": family.pods(self.number)}])).collect();
        let routes: Vec<Value> = self.families().iter().map(|family| json!({"dst": family.everywhere()})).collect();
        let network = json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "ranges": ranges, "routes": routes}}],
        });
        fs::write(folder.join("cni/10-pods.conflist"), network.to_string())?;
        let config = folder.join("containerd.toml");
        fs::write(&config, containerd_config(text(&self.tools.cni())?, text(&folder.join("cni"))?))?;
        // It looks for its shim and for runc in PATH.
        let path = std::env::var("PATH").unwrap_or_default();
        let arguments = [
            format!("PATH={}:{path}:/usr/sbin:/sbin", text(self.tools.folder())?),
            text(&self.tools.program("containerd"))?.to_owned(),
            format!("--config={}", text(&config)?),
        ];
        let log = folder.join("containerd.log");
        place.start(&log, Path::new("env"), &arguments)?;
        wait_for("containerd", Duration::from_secs(30), || {
            place.run(&self.tools.program("ctr"), &["--namespace", "k8s.io", "version"])
        })
        .with_context(|| last_lines(&log))?;
        Ok(())
    }

    fn start_kubelet(&self, place: &Place) -> Result<()> {
        let folder = self.folder();
        let config = folder.join("kubelet.json");
        fs::write(&config, kubelet_config().to_string())?;
        let addresses: Vec<String> =
            self.families().iter().map(|family| family.node(self.number).to_string()).collect();
        let kubeconfig = Files::new(self.state).kubeconfig(&kubelet_user(&self.name()))?;
        let arguments = [
            format!("--kubeconfig={}", text(&kubeconfig)?),
            format!("--config={}", text(&config)?),
            format!("--hostname-override={}", self.name()),
            format!("--node-ip={}", addresses.join(",")),
        ];
        place.start(&folder.join("kubelet.log"), &self.tools.program("kubelet"), &arguments)
    }
}

/// Imports an image archive into a node.
pub fn load(place: &Place, tools: &Tools, archive: &Path) -> Result<()> {
    place
        .run(&tools.program("ctr"), &["--namespace", "k8s.io", "images", "import", text(archive)?])
        .map(drop)
        .with_context(|| format!("{} does not take the image {}", place.name(), archive.display()))
}

fn containerd_config(plugins: &str, networks: &str) -> String {
    // NRI's socket is one for the machine. Without restrict_oom_score_adj runc fails where CAP_SYS_RESOURCE is missing.
    format!(
        "version = 3\n\
         [plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'overlayfs'\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{PAUSE}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['{plugins}']\nconf_dir = '{networks}'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = false\n\
         [plugins.'io.containerd.nri.v1.nri']\ndisable = true\n"
    )
}

/// Takes the machine as it is: whatever cgroups, swap and disk it has.
fn kubelet_config() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": "/var/lib/kubelet/plugins-of-volumes",
        "resolvConf": "",
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "0%"},
        "localStorageCapacityIsolation": false,
        "makeIPTablesUtilChains": false,
        // Images come by `load` only: none is to be thrown away for lack of room on the machine's disk.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 200,
        // Tests kill agents, and want them back.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
    })
}
