//! Programs on interfaces: attached to those that are there, also when they come later or come back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode as AyaMode};
use aya::util::KernelVersion;

use super::maps::Maps;
use super::netlink::Link;
use super::network::Network;
use super::pins::Pins;
use super::programs::{EGRESS, Programs, STEER, TC, XDP};
use super::raw::Map;

/// Where XDP is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// Native XDP on external interfaces whose driver has it, except veth (where XDP switches GSO off).
    #[default]
    Auto,
    Off,
    /// Native XDP on external interfaces, veth too.
    Native,
    /// XDP by the kernel's network stack, slower than TC: for trials.
    Generic,
}

/// What is to be attached where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub xdp: XdpMode,
    /// External interfaces by name; empty: devices, and those that a default route goes out by.
    pub external: Vec<String>,
    /// Filters of the clsact queueing discipline even where the kernel has tcx.
    pub clsact: bool,
}

/// An interface and what is attached to it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Interface {
    pub name: String,
    pub external: bool,
    /// The hook of both directions, or why there is none.
    pub tc: Result<&'static str, String>,
    /// The mode, or why there is none.
    pub xdp: Result<&'static str, String>,
}

pub struct Interfaces {
    options: Options,
    clsact: bool,
    present: BTreeMap<u32, Interface>,
}

impl Interfaces {
    pub fn new(options: Options) -> Interfaces {
        // Kernels before 6.6 have no tcx links.
        let tcx = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        Interfaces { clsact: options.clsact || !tcx, options, present: BTreeMap::new() }
    }

    pub fn present(&self) -> &BTreeMap<u32, Interface> {
        &self.present
    }

    /// Attaches to what is new, tries again what failed before, and forgets what has gone.
    pub fn sync(&mut self, network: &Network, programs: &mut Programs, pins: &Pins, maps: &Maps) {
        let links = network.links();
        self.present.retain(|index, interface| {
            let there = links.iter().any(|l| l.index == *index);
            if !there {
                tracing::info!(interface = interface.name, "interface has gone");
            }
            there
        });
        self.remove_stale_pins(links, pins);
        remove_stale_interfaces(links, maps);
        for link in links.iter().filter(|l| l.ethernet) {
            let external = match &self.options.external[..] {
                [] => network.is_external(link),
                names => names.contains(&link.name),
            };
            if let Err(error) = maps.interfaces.put(&link.index, &network.interface(link)) {
                tracing::warn!(interface = link.name, %error, "nothing is done in XDP there, and errors have another source");
            }
            let before = self.present.get(&link.index);
            let interface = Interface {
                name: link.name.clone(),
                external,
                tc: match before.map(|b| &b.tc) {
                    Some(Ok(hook)) => Ok(*hook),
                    _ => self.attach_tc(link, network, programs, pins),
                },
                xdp: match before.filter(|b| b.external == external).map(|b| &b.xdp) {
                    Some(Ok(mode)) => Ok(*mode),
                    _ => self.attach_xdp(link, external, programs, pins, &maps.xdp_ports),
                },
            };
            report(before, &interface);
            self.present.insert(link.index, interface);
        }
    }

    /// Links detach by themselves when their interface goes, but their pins stay.
    fn remove_stale_pins(&self, links: &[Link], pins: &Pins) {
        for (hook, ifindex, path) in pins.links().unwrap_or_default() {
            if hook != STEER && !links.iter().any(|l| l.index == ifindex) {
                unpin(&path);
            }
        }
    }

    fn attach_tc(
        &self,
        link: &Link,
        network: &Network,
        programs: &mut Programs,
        pins: &Pins,
    ) -> Result<&'static str, String> {
        let hooks = DIRECTIONS.into_iter().zip([&mut programs.tc, &mut programs.egress]);
        if self.clsact {
            for ((name, direction), program) in hooks {
                unpin(&pins.link(name, link.index));
                attach_clsact(&link.name, direction, program)?;
            }
            return Ok("clsact");
        }
        // Links of an earlier agent have got this agent's program already.
        let missing: Vec<_> = hooks.filter(|((name, _), _)| !pins.link(name, link.index).exists()).collect();
        if missing.len() == DIRECTIONS.len() {
            // An agent before this one may have been told to use clsact.
            detach_clsact(network, link);
        }
        for ((name, direction), program) in missing {
            let mut attach = || -> Result<(), ProgramError> {
                let options = TcAttachOptions::TcxOrder(LinkOrder::first());
                let id = program.attach_with_options(&link.name, direction, options)?;
                let attached: FdLink = program.take_link(id)?.try_into().map_err(other)?;
                attached.pin(pins.link(name, link.index)).map(drop).map_err(other)
            };
            attach().map_err(|error| chain(&error))?;
        }
        Ok("tcx")
    }

    fn attach_xdp(
        &self,
        link: &Link,
        external: bool,
        programs: &mut Programs,
        pins: &Pins,
        ports: &Map<u32, [u32; 2]>,
    ) -> Result<&'static str, String> {
        // The kernel does not say the mode of a link, so its pin does.
        let pin = |mode: &str| pins.link(&format!("{XDP}-{mode}"), link.index);
        let off = |why: &str| {
            [NATIVE, GENERIC].into_iter().for_each(|mode| unpin(&pin(mode)));
            // Most interfaces are not in the map.
            let _ = ports.remove(&link.index);
            Err(why.to_owned())
        };
        let (mode, name, other_name) = match self.options.xdp {
            XdpMode::Auto if link.is_veth() => return off("veth: XDP would switch GSO off"),
            XdpMode::Off => return off("off"),
            _ if !external => return off("not external"),
            XdpMode::Generic => (AyaMode::Skb, GENERIC, NATIVE),
            XdpMode::Auto | XdpMode::Native => (AyaMode::Driver, NATIVE, GENERIC),
        };
        unpin(&pin(other_name));
        let pin = pin(name);
        let mut attach = || -> Result<(), ProgramError> {
            let id = programs.xdp.attach_to_if_index(link.index, mode)?;
            let attached: FdLink = programs.xdp.take_link(id)?.try_into().map_err(other)?;
            attached.pin(&pin).map(drop).map_err(other)
        };
        if !pin.exists() {
            attach().map_err(|error| chain(&error))?;
        }
        if let Err(error) = ports.put(&link.index, &[link.index, 0]) {
            tracing::warn!(interface = link.name, %error, "packets are not redirected to the interface in XDP");
        }
        Ok(name)
    }
}

/// Removes our filters of the clsact queueing discipline, and that with the last filter in it; says on how many interfaces.
pub fn detach_filters(network: &Network) -> usize {
    network.links().iter().filter(|l| l.ethernet && detach_clsact(network, l)).count()
}

/// Most interfaces have no filter of ours: that is no error.
fn detach_clsact(network: &Network, link: &Link) -> bool {
    let detach = |(name, direction)| qdisc_detach_program(&link.name, direction, name).is_ok();
    let detached = DIRECTIONS.map(detach).contains(&true);
    if detached {
        network.remove_empty_clsact(link);
    }
    detached
}

/// What an earlier agent has told the programs of interfaces too that have gone meanwhile.
fn remove_stale_interfaces(links: &[Link], maps: &Maps) {
    let mut stale = Vec::new();
    let scanned = maps.interfaces.scan(|indexes, _| {
        stale.extend(indexes.iter().filter(|index| !links.iter().any(|l| l.index == **index)).copied());
    });
    let removed = scanned.and_then(|()| stale.iter().try_for_each(|index| maps.interfaces.remove(index)));
    if let Err(error) = removed {
        tracing::warn!(%error, "map INTERFACES keeps interfaces that have gone");
    }
}

/// What is attached by TC, and where.
const DIRECTIONS: [(&str, TcAttachType); 2] = [(TC, TcAttachType::Ingress), (EGRESS, TcAttachType::Egress)];

/// XDP modes, in pins and for people.
const NATIVE: &str = "native";
const GENERIC: &str = "generic";

/// Of our own filter, so that a second attach replaces the first.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x51ce);

fn attach_clsact(interface: &str, direction: TcAttachType, program: &mut SchedClassifier) -> Result<(), String> {
    // There already, perhaps by somebody else: then it stays when we go.
    let _ = qdisc_add_clsact(interface);
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, ..NlOptions::default() };
    let attached = program.attach_with_options(interface, direction, TcAttachOptions::Netlink(options));
    let id = attached.or_else(|first| {
        let Ok(present) = SchedClassifierLink::attached(interface, direction, PRIORITY, HANDLE, None) else {
            return Err(first);
        };
        program.attach_to_link(present)
    });
    let link = id.and_then(|id| program.take_link(id)).map_err(|error| chain(&error))?;
    // Dropping it would detach the filter, which is to outlive the agent.
    std::mem::forget(link);
    Ok(())
}

fn unpin(pin: &Path) {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(pin = %pin.display(), %error, "cannot remove a pinned link");
        }
        _ => {}
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}

/// The error with its causes: aya's say the system call, the cause says why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let also = error.to_string();
        if !text.ends_with(&also) {
            text = format!("{text}: {also}");
        }
        cause = error.source();
    }
    text
}

fn report(before: Option<&Interface>, now: &Interface) {
    if before == Some(now) {
        return;
    }
    let (name, external) = (&now.name, now.external);
    match &now.tc {
        Ok(hook) => {
            let xdp = match &now.xdp {
                Ok(mode) => mode,
                Err(why) => why.as_str(),
            };
            tracing::info!(interface = name, hook, xdp, external, "attached");
        }
        Err(error) => {
            tracing::error!(interface = name, error, "cannot attach: packets that come in here are not served")
        }
    }
}
