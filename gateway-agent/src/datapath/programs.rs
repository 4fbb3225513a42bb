//! Loads the object around the pinned maps, pins its programs, and puts them behind the links of an earlier agent.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapInfo;
use aya::programs::{Program, ProgramError, SchedClassifier, SkLookup, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use aya_obj::programs::XdpAttachType;

use super::maps::{Keep, Shape, Sizes, shapes};
use super::pins::Pins;
use super::raw::{self, Map};
use super::trace::Trace;
use super::{features, memory, object};
use gateway_common::names;

/// Names of the programs, as in the object and below the pin directory.
pub const TC: &str = "ingress_tc";
pub const EGRESS: &str = "egress_tc";
pub const XDP: &str = "ingress_xdp";
pub const STEER: &str = "steer";
const SWEEP: &str = "sweep";

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "this binary carries no eBPF object: it was built without the eBPF tool chain; build it with `cargo xtask build`"
    )]
    Stub,
    #[error("{0}")]
    Missing(String),
    #[error("cannot load the eBPF object: {0}")]
    Load(#[from] Box<aya::EbpfError>),
    #[error("the kernel refuses program {program}: {error}")]
    Program { program: &'static str, error: String },
    #[error("the eBPF object has no program {0} of the right kind; build it anew with `cargo xtask build`")]
    NoProgram(&'static str),
    #[error(
        "the eBPF object has {found}, where this agent wants {wanted}: they are of different builds; build them together with \
         `cargo xtask build`"
    )]
    OtherBuild { found: String, wanted: String },
    #[error("cannot {action} {path}: {source}")]
    Pin { action: &'static str, path: String, source: io::Error },
}

/// The programs, as they are pinned.
pub struct Programs {
    pub tc: SchedClassifier,
    pub egress: SchedClassifier,
    pub xdp: Xdp,
    pub steer: SkLookup,
    sweep: SchedClassifier,
    pub trace: Option<Trace>,
}

impl Programs {
    /// Maps that an earlier agent left are taken over where they can be.
    pub fn load(pins: &Pins, sizes: &Sizes) -> Result<Programs, LoadError> {
        let bytes = object::bytes().ok_or(LoadError::Stub)?;
        let shapes = shapes(sizes);
        let resized = prepare(pins, &shapes)?;
        let object = object::fingerprint(bytes);
        if resized.is_empty() && !object::prints(bytes) {
            match Programs::pinned(pins, object, &shapes) {
                Some(programs) => {
                    tracing::debug!("the programs of an earlier agent are those of this object");
                    object::forget();
                    programs.take_over_links(pins)?;
                    return Ok(programs);
                }
                None => tracing::debug!("the programs are loaded anew"),
            }
        }
        let mut loader = EbpfLoader::new();
        for shape in &shapes {
            loader.map_max_entries(shape.name, shape.entries).map_pin_path(shape.name, pins.map(shape.name));
        }
        let mut ebpf = loader.load(bytes).map_err(|error| match features::missing() {
            Some(missing) => LoadError::Missing(missing),
            None => LoadError::Load(Box::new(error)),
        })?;
        check(pins, &shapes)?;
        for shape in &resized {
            copy(pins, shape)?;
        }
        let programs = Programs {
            tc: load_tc(&mut ebpf, TC, object, pins)?,
            egress: load_tc(&mut ebpf, EGRESS, object, pins)?,
            xdp: load_xdp(&mut ebpf, object, pins)?,
            steer: load_steer(&mut ebpf, object, pins)?,
            sweep: load_tc(&mut ebpf, SWEEP, object, pins)?,
            trace: Trace::of(&mut ebpf),
        };
        // The instructions and their BTF are in the kernel now.
        drop(ebpf);
        object::forget();
        memory::trim_heap();
        programs.take_over_links(pins)?;
        for old in resized.iter().map(|shape| old(pins, shape.name)).chain(other_programs(pins, object)?) {
            fs::remove_file(&old).map_err(failed("remove", &old))?;
        }
        Ok(programs)
    }

    /// The programs that an earlier agent has loaded from the same object, around the maps that are pinned now: the verifier
    /// takes longer than all the rest of a start.
    fn pinned(pins: &Pins, object: u64, shapes: &[Shape]) -> Option<Programs> {
        let classifier = |name| SchedClassifier::from_pin(pins.program(&pin_name(name, object))).ok();
        let programs = Programs {
            tc: classifier(TC)?,
            egress: classifier(EGRESS)?,
            xdp: Xdp::from_pin(pins.program(&pin_name(XDP, object)), XdpAttachType::Interface).ok()?,
            steer: SkLookup::from_pin(pins.program(&pin_name(STEER, object))).ok()?,
            sweep: classifier(SWEEP)?,
            trace: None,
        };
        let Programs { tc, egress, xdp, steer, sweep, .. } = &programs;
        let mut used = Vec::new();
        for program in [tc.fd(), egress.fd(), xdp.fd(), steer.fd(), sweep.fd()] {
            used.extend(raw::maps_of(program.ok()?.as_fd()).ok()?);
        }
        let is_used = |shape: &Shape| MapInfo::from_pin(pins.map(shape.name)).is_ok_and(|map| used.contains(&map.id()));
        shapes.iter().all(is_used).then_some(programs)
    }

    /// Expires flows and ends those of backends that have gone; says how many ended.
    pub fn sweep(&self) -> Result<u32, String> {
        // The kernel wants a whole Ethernet header, which the program does not look at.
        let frame = [0; 64];
        let options = TestRunOptions { data_in: Some(&frame), repeat: 1, ..TestRunOptions::default() };
        self.sweep.test_run(options).map(|result| result.return_value).map_err(|error| error.to_string())
    }

    /// Every pinned link gets the new program; one that cannot is unpinned, and made anew with its interface.
    fn take_over_links(&self, pins: &Pins) -> Result<(), LoadError> {
        let links = pins.links().map_err(failed("read the links in", pins.directory()))?;
        for (hook, ifindex, path) in links {
            let (name, program) = match &*hook {
                TC => (TC, self.tc.fd()),
                EGRESS => (EGRESS, self.egress.fd()),
                STEER => (STEER, self.steer.fd()),
                _ => (XDP, self.xdp.fd()),
            };
            let program = program.map_err(|error| LoadError::Program { program: name, error: error.to_string() })?;
            let updated = raw::open(&path).and_then(|link| {
                if raw::link_target(link.as_fd())? != ifindex {
                    return Err(io::Error::other("what it was attached to has gone"));
                }
                raw::update_link(link.as_fd(), program.as_fd())
            });
            if let Err(error) = updated {
                tracing::info!(link = %path.display(), %error, "a pinned link is of no use any more");
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LoadError {
    let path = path.display().to_string();
    move |source| LoadError::Pin { action, path, source }
}

fn old(pins: &Pins, name: &str) -> std::path::PathBuf {
    pins.map(&format!("{name}_OLD"))
}

/// Makes way for maps that cannot be taken over; those that only have another size are put aside and returned.
fn prepare<'a>(pins: &Pins, shapes: &'a [Shape]) -> Result<Vec<&'a Shape>, LoadError> {
    let remove = |path: &Path| fs::remove_file(path).map_err(failed("remove", path));
    let mut resized = Vec::new();
    let mut ids_are_lost = false;
    for shape in shapes {
        let (path, old) = (pins.map(shape.name), old(pins, shape.name));
        if old.exists() {
            // An agent was killed while it copied.
            fs::rename(&old, &path).map_err(failed("rename", &old))?;
        }
        if !path.exists() {
            ids_are_lost |= shape.name == names::BACKENDS;
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|e| failed("read", &path)(io::Error::other(e)))?;
        if shape.is_same(&info) {
            continue;
        }
        let (before, now) = (info.max_entries(), shape.entries);
        if shape.fits(&info) && !matches!(shape.keep, Keep::Lost(_)) {
            tracing::info!(map = shape.name, before, now, "the map gets another size; its entries are copied");
            fs::rename(&path, &old).map_err(failed("rename", &path))?;
            resized.push(shape);
            continue;
        }
        let loss = match shape.keep {
            Keep::Lost(what) => what,
            _ => "its entries are of another version",
        };
        tracing::warn!(map = shape.name, before, now, "an earlier agent's map cannot be taken over: {loss}");
        ids_are_lost |= shape.name == names::BACKENDS;
        remove(&path)?;
    }
    // Flows name their backends by ids that mean nothing any more.
    if ids_are_lost {
        for name in [names::FLOWS, names::EMBRYONIC] {
            resized.retain(|shape| shape.name != name);
            for path in [pins.map(name), old(pins, name)] {
                if path.exists() {
                    tracing::warn!(map = name, "connections of an earlier agent are lost: its backends are");
                    remove(&path)?;
                }
            }
        }
    }
    Ok(resized)
}

/// The maps that were made by the object hold what this agent takes them for.
fn check(pins: &Pins, shapes: &[Shape]) -> Result<(), LoadError> {
    for shape in shapes {
        let sized = |key: u32, value: u32, entries: u32| {
            format!("a map {} of {entries} entries with keys of {key} and values of {value} bytes", shape.name)
        };
        let wanted = sized(shape.key, shape.value, shape.entries);
        let found = match MapInfo::from_pin(pins.map(shape.name)) {
            Ok(info) if shape.is_same(&info) => continue,
            Ok(info) => sized(info.key_size(), info.value_size(), info.max_entries()),
            Err(_) => format!("no map {}", shape.name),
        };
        return Err(LoadError::OtherBuild { found, wanted });
    }
    Ok(())
}

fn load_tc(ebpf: &mut Ebpf, name: &'static str, object: u64, pins: &Pins) -> Result<SchedClassifier, LoadError> {
    let refused = |error| refused(name, error);
    let program = ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
    let Program::SchedClassifier(program) = program else { return Err(LoadError::NoProgram(name)) };
    program.load().map_err(refused)?;
    let pin = pin(pins, &pin_name(name, object), |path| program.pin(path))?;
    SchedClassifier::from_pin(&pin).map_err(refused)
}

fn load_xdp(ebpf: &mut Ebpf, object: u64, pins: &Pins) -> Result<Xdp, LoadError> {
    let refused = |error| refused(XDP, error);
    let program = ebpf.program_mut(XDP).ok_or(LoadError::NoProgram(XDP))?;
    let Program::Xdp(program) = program else { return Err(LoadError::NoProgram(XDP)) };
    program.load().map_err(refused)?;
    let pin = pin(pins, &pin_name(XDP, object), |path| program.pin(path))?;
    Xdp::from_pin(&pin, XdpAttachType::Interface).map_err(refused)
}

fn load_steer(ebpf: &mut Ebpf, object: u64, pins: &Pins) -> Result<SkLookup, LoadError> {
    let refused = |error| refused(STEER, error);
    let program = ebpf.program_mut(STEER).ok_or(LoadError::NoProgram(STEER))?;
    let Program::SkLookup(program) = program else { return Err(LoadError::NoProgram(STEER)) };
    program.load().map_err(refused)?;
    let pin = pin(pins, &pin_name(STEER, object), |path| program.pin(path))?;
    SkLookup::from_pin(&pin).map_err(refused)
}

fn refused(program: &'static str, error: ProgramError) -> LoadError {
    match features::missing() {
        Some(missing) => LoadError::Missing(missing),
        None => LoadError::Program { program, error: last_lines(&error.to_string()) },
    }
}

/// The verifier tells of every instruction; what is wrong comes last.
fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    match &lines[..] {
        [first, .., a, b, c, d, e, f] => [first, "…", a, b, c, d, e, f].join("\n"),
        _ => text.to_owned(),
    }
}

/// Programs of one name from different objects are told apart.
fn pin_name(program: &str, object: u64) -> String {
    format!("{program}-{object:016x}")
}

/// Pins of programs from other objects.
fn other_programs(pins: &Pins, object: u64) -> Result<Vec<std::path::PathBuf>, LoadError> {
    let own = [TC, EGRESS, XDP, STEER, SWEEP].map(|name| pins.program(&pin_name(name, object)));
    let all = pins.programs().map_err(failed("read the programs in", pins.directory()))?;
    Ok(all.into_iter().filter(|path| !own.contains(path)).collect())
}

/// In place of the pin of an earlier agent, if there is one.
fn pin(
    pins: &Pins,
    name: &str,
    pin: impl FnOnce(&Path) -> Result<(), aya::pin::PinError>,
) -> Result<std::path::PathBuf, LoadError> {
    let (new, path) = (pins.program(&format!("{name}_new")), pins.program(name));
    if new.exists() {
        fs::remove_file(&new).map_err(failed("remove", &new))?;
    }
    pin(&new).map_err(|error| failed("pin", &new)(io::Error::other(error)))?;
    fs::rename(&new, &path).map_err(failed("rename", &new))?;
    Ok(path)
}

/// Copies what an earlier agent's map of another size holds.
fn copy(pins: &Pins, shape: &Shape) -> Result<(), LoadError> {
    let (from, to) = (old(pins, shape.name), pins.map(shape.name));
    let copied = match (shape.keep, shape.key, shape.value) {
        (Keep::Array, 4, 4) => copy_array::<u32>(&from, &to, shape),
        (Keep::Array, ..) => copy_array::<gateway_common::BackendSet>(&from, &to, shape),
        (_, 24, _) => copy_hash::<gateway_common::ListenerKey, gateway_common::Listener>(&from, &to, shape),
        (_, 32, _) => copy_hash::<gateway_common::SniKey, gateway_common::SniName>(&from, &to, shape),
        (_, 40, _) => copy_hash::<gateway_common::FlowKey, gateway_common::Flow>(&from, &to, shape),
        _ => copy_hash::<u32, gateway_common::Backend>(&from, &to, shape),
    };
    copied.map_err(failed("copy", &from))
}

fn copy_hash<K: Pod, V: Pod>(from: &Path, to: &Path, shape: &Shape) -> io::Result<()> {
    let from = Map::<K, V>::new(raw::open(from)?, 0);
    let to = Map::<K, V>::new(raw::open(to)?, shape.entries);
    let mut lost = 0;
    from.scan(|keys, values| {
        if let Err((put, _)) = to.put_all(keys, values) {
            lost += keys.len() - put;
        }
    })?;
    if lost > 0 {
        tracing::warn!(map = shape.name, lost, "the map has become too small for what was in it");
    }
    Ok(())
}

fn copy_array<V: Pod>(from: &Path, to: &Path, shape: &Shape) -> io::Result<()> {
    let entries = MapInfo::from_pin(from).map_err(io::Error::other)?.max_entries().min(shape.entries);
    let from = Map::<u32, V>::new(raw::open(from)?, entries);
    let to = Map::<u32, V>::new(raw::open(to)?, shape.entries);
    const PART: u32 = 16_384;
    for start in (0..entries).step_by(PART as usize) {
        let keys: Vec<u32> = (start..entries.min(start + PART)).collect();
        let values = from.read_all(start, keys.len() as u32)?;
        to.put_all(&keys, &values).map_err(|(_, error)| error)?;
    }
    Ok(())
}
