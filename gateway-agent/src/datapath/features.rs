//! Why a load failed, or why packets would not flow, in words: what the kernel or the process lacks.

use std::fs;
use std::io;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

/// The oldest kernel that is supported.
pub const OLDEST: &str = "6.1";

/// Something the programs need from the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    pub name: &'static str,
    /// The first kernel that has it.
    pub since: &'static str,
    probe: Probe,
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    Helper(ProgramType, BpfHelper),
    Map(MapType),
    Program(ProgramType),
}

/// Newest first.
pub const FEATURES: &[Feature] = &[
    helper("bpf_loop", "5.17", BpfHelper::BPF_FUNC_loop),
    helper("bpf_for_each_map_elem", "5.13", BpfHelper::BPF_FUNC_for_each_map_elem),
    helper("bpf_check_mtu", "5.12", BpfHelper::BPF_FUNC_check_mtu),
    helper("bpf_ktime_get_coarse_ns", "5.11", BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
    helper("bpf_redirect_peer", "5.10", BpfHelper::BPF_FUNC_redirect_peer),
    helper("bpf_redirect_neigh", "5.10", BpfHelper::BPF_FUNC_redirect_neigh),
    Feature { name: "sk_lookup programs", since: "5.9", probe: Probe::Program(ProgramType::SkLookup) },
    map("ring buffers", "5.8", MapType::RingBuf),
    map("devmap hashes", "5.4", MapType::DevMapHash),
    helper("bpf_skc_lookup_tcp", "5.2", BpfHelper::BPF_FUNC_skc_lookup_tcp),
    helper("bpf_fib_lookup", "4.18", BpfHelper::BPF_FUNC_fib_lookup),
    map("sockmaps", "4.14", MapType::SockMap),
    helper("bpf_skb_adjust_room", "4.13", BpfHelper::BPF_FUNC_skb_adjust_room),
    map("LRU hashes", "4.10", MapType::LruHash),
    helper("bpf_skb_change_tail", "4.9", BpfHelper::BPF_FUNC_skb_change_tail),
];

const fn helper(name: &'static str, since: &'static str, helper: BpfHelper) -> Feature {
    Feature { name, since, probe: Probe::Helper(ProgramType::SchedClassifier, helper) }
}

const fn map(name: &'static str, since: &'static str, kind: MapType) -> Feature {
    Feature { name, since, probe: Probe::Map(kind) }
}

impl Feature {
    /// A probe that cannot be made says nothing against the kernel.
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Helper(program, helper) => is_helper_supported(program, helper).unwrap_or(true),
            Probe::Map(kind) => is_map_supported(kind).unwrap_or(true),
            Probe::Program(kind) => is_program_supported(kind).unwrap_or(true),
        }
    }
}

/// What this kernel does not have, as a sentence; `None`: it has everything.
pub fn missing() -> Option<String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    describe(&release, FEATURES.iter().filter(|f| !f.is_there()))
}

fn describe<'a>(release: &str, missing: impl Iterator<Item = &'a Feature>) -> Option<String> {
    let list: Vec<_> = missing.map(|f| format!("{} (Linux {} and later)", f.name, f.since)).collect();
    if list.is_empty() {
        return None;
    }
    Some(format!("this kernel ({release}) lacks {}; Sluice runs on Linux {OLDEST} and later", list.join(", ")))
}

/// Capabilities that the agent uses: number (linux/capability.h), name, what for.
const CAPABILITIES: &[(u32, &str, &str)] = &[
    (12, "CAP_NET_ADMIN", "attach programs to interfaces"),
    (38, "CAP_PERFMON", "load programs that follow kernel pointers"),
    (39, "CAP_BPF", "make maps and load programs"),
];
const CAP_SYS_ADMIN: u32 = 21;

/// What this process may not do, as a sentence; `None`: nothing is missing.
pub fn missing_capabilities() -> io::Result<Option<String>> {
    Ok(capabilities_missing_in(&fs::read_to_string("/proc/self/status")?))
}

fn capabilities_missing_in(status: &str) -> Option<String> {
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    let has = |number: u32| effective >> number & 1 == 1;
    // CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON (capabilities(7)), and only for these.
    let covered = |number: u32| has(number) || number >= 38 && has(CAP_SYS_ADMIN);
    let list: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(number, ..)| !covered(*number))
        .map(|(_, name, purpose)| format!("{name} (to {purpose})"))
        .collect();
    (!list.is_empty())
        .then(|| format!("missing {}; run as root or give the process these capabilities", list.join(", ")))
}

/// Sysctls without which the kernel forwards nothing, where they are off.
pub fn forwarding_off() -> Vec<&'static str> {
    ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]
        .into_iter()
        // A kernel without IPv6 has no such file.
        .filter(|name| fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|value| value.trim() == "0"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_features_are_named_with_the_kernel_that_has_them() {
        let text = describe("5.4.0", FEATURES[..2].iter()).unwrap();
        let expected = "this kernel (5.4.0) lacks bpf_loop (Linux 5.17 and later), bpf_for_each_map_elem (Linux 5.13 and \
                        later); Sluice runs on Linux 6.1 and later";
        assert_eq!(text, expected);
        assert_eq!(describe("6.1.0", [].iter()), None);
    }

    #[test]
    fn missing_capabilities_are_named() {
        let status = |caps: u64| format!("Name:\tsluice\nCapEff:\t{caps:016x}\n");
        assert_eq!(capabilities_missing_in(&status(1 << 12 | 1 << 38 | 1 << 39)), None);
        assert_eq!(capabilities_missing_in(&status(1 << 12 | 1 << 21)), None);
        let text = capabilities_missing_in(&status(1 << 21)).unwrap();
        assert!(text.starts_with("missing CAP_NET_ADMIN (to attach programs to interfaces);"), "{text}");
        let text = capabilities_missing_in(&status(0)).unwrap();
        assert!(text.contains("CAP_BPF") && text.contains("CAP_PERFMON"), "{text}");
    }
}
