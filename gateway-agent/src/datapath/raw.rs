//! bpf(2) for what aya 0.14 does not have: batches, and links and maps by descriptor.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Pod;

/// Of `enum bpf_cmd` in linux/bpf.h.
#[derive(Clone, Copy)]
enum Command {
    Lookup = 1,
    Update = 2,
    Delete = 3,
    ObjectGet = 7,
    InfoByFd = 15,
    LookupBatch = 24,
    UpdateBatch = 26,
    LinkUpdate = 29,
}

/// `BPF_MAP_*_ELEM` of `union bpf_attr`.
#[repr(C)]
struct Element {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_MAP_*_BATCH`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectGet {
    path: u64,
    bpf_fd: u32,
    flags: u32,
}

/// `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    length: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`, for links to an interface or a network namespace.
#[repr(C)]
#[derive(Clone, Copy)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    _pad: u32,
    target: u32,
    attach_type: u32,
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: u64,
    jited_length: u32,
    length: u32,
    jited: u64,
    instructions: u64,
    load_time: u64,
    user: u32,
    maps: u32,
    map_ids: u64,
}

/// Maps of a program; those of ours are fewer.
const MOST_MAPS: usize = 64;

fn bpf<T>(command: Command, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is the part of `union bpf_attr` that this command reads and writes, and lives over the call;
    // what its pointers point to is the caller's.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn address<T>(of: *const T) -> u64 {
    of as u64
}

/// A map whose keys and values are these types.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    entries: u32,
    types: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// The caller has checked that the map has these types.
    pub(super) fn new(fd: OwnedFd, entries: u32) -> Map<K, V> {
        Map { fd, entries, types: PhantomData }
    }

    pub fn entries(&self) -> u32 {
        self.entries
    }

    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        self.element(Command::Update, key, address(value))
    }

    pub fn remove(&self, key: &K) -> io::Result<()> {
        self.element(Command::Delete, key, 0)
    }

    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        // SAFETY: `Pod`: every bit pattern is a value.
        let mut value: V = unsafe { zeroed() };
        match self.element(Command::Lookup, key, std::ptr::from_mut(&mut value) as u64) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn element(&self, command: Command, key: &K, value: u64) -> io::Result<()> {
        let map_fd = self.fd.as_raw_fd() as u32;
        let mut attributes = Element { map_fd, _pad: 0, key: address(key), value, flags: 0 };
        bpf(command, &mut attributes).map(drop)
    }

    /// Puts all of them; says how many were put when it fails.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> Result<(), (usize, io::Error)> {
        assert_eq!(keys.len(), values.len());
        if keys.is_empty() {
            return Ok(());
        }
        let mut batch = self.batch(address(keys.as_ptr()), address(values.as_ptr()), keys.len() as u32);
        bpf(Command::UpdateBatch, &mut batch).map(drop).map_err(|error| (batch.count as usize, error))
    }

    fn batch(&self, keys: u64, values: u64, count: u32) -> Batch {
        let map_fd = self.fd.as_raw_fd() as u32;
        Batch { in_batch: 0, out_batch: 0, keys, values, count, map_fd, element_flags: 0, flags: 0 }
    }

    /// Calls back with parts of a hash map until all of it was seen. Entries that come or go meanwhile may be missed.
    pub fn scan(&self, mut part: impl FnMut(&[K], &[V])) -> io::Result<()> {
        const PART: usize = 1024;
        // SAFETY: `Pod`.
        let (mut keys, mut values): (Vec<K>, Vec<V>) = unsafe { (vec![zeroed(); PART], vec![zeroed(); PART]) };
        // The kernel's own cursor: a bucket number.
        let (mut cursor, mut next, mut first) = (0u32, 0u32, true);
        loop {
            let mut batch = self.batch(keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64, keys.len() as u32);
            batch.in_batch = if first { 0 } else { address(&cursor) };
            batch.out_batch = std::ptr::from_mut(&mut next) as u64;
            let end = match bpf(Command::LookupBatch, &mut batch) {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // A bucket with more entries than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && batch.count == 0 => {
                    let double = keys.len() * 2;
                    // SAFETY: `Pod`.
                    unsafe {
                        keys.resize(double, zeroed());
                        values.resize(double, zeroed());
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = batch.count as usize;
            part(&keys[..count], &values[..count]);
            if end {
                return Ok(());
            }
            (cursor, first) = (next, false);
        }
    }
}

impl<V: Pod> Map<u32, V> {
    /// Consecutive elements of an array.
    pub fn read(&self, from: u32, values: &mut [V]) -> io::Result<()> {
        self.read_words(from, values.len() as u32, values.as_mut_ptr() as u64)
    }

    /// As [`Map::read`], into memory of its own.
    pub fn read_all(&self, from: u32, count: u32) -> io::Result<Vec<V>> {
        self.read_values(from, count, 1)
    }

    /// Consecutive elements of an array, one value for each possible CPU each.
    pub fn read_per_cpu(&self, from: u32, count: u32, cpus: usize) -> io::Result<Vec<V>> {
        assert_eq!(size_of::<V>() % 8, 0, "the kernel rounds values up to 8 bytes");
        self.read_values(from, count, cpus)
    }

    fn read_values(&self, from: u32, count: u32, cpus: usize) -> io::Result<Vec<V>> {
        // SAFETY: `Pod`.
        let mut values: Vec<V> = unsafe { vec![zeroed(); count as usize * cpus] };
        self.read_words(from, count, values.as_mut_ptr() as u64)?;
        Ok(values)
    }

    fn read_words(&self, from: u32, count: u32, values: u64) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut keys = vec![0u32; count as usize];
        let (before, mut last) = (from.wrapping_sub(1), 0u32);
        let mut batch = self.batch(keys.as_mut_ptr() as u64, values, count);
        batch.in_batch = if from == 0 { 0 } else { address(&before) };
        batch.out_batch = std::ptr::from_mut(&mut last) as u64;
        match bpf(Command::LookupBatch, &mut batch) {
            // ENOENT: the last element of the array was among them.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ if batch.count != count => {
                Err(io::Error::other("the kernel returned fewer elements than were asked for"))
            }
            _ => Ok(()),
        }
    }

    /// Sets the values of all CPUs to zero.
    pub fn reset_per_cpu(&self, index: u32, cpus: usize) -> io::Result<()> {
        // SAFETY: `Pod`.
        let zeros: Vec<V> = unsafe { vec![zeroed(); cpus] };
        self.element(Command::Update, &index, address(zeros.as_ptr()))
    }
}

/// The object pinned there.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectGet { path: address(path.as_ptr()), bpf_fd: 0, flags: 0 };
    let fd = bpf(Command::ObjectGet, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor, and it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel charges for a map, in bytes (`bpf_map_show_fdinfo` of kernel/bpf/syscall.c).
pub fn memory(map: BorrowedFd<'_>) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let memory = info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    memory.ok_or_else(|| io::Error::other("the kernel does not say how large a map is"))
}

/// The interface that a tcx or XDP link is attached to, or the inode of the network namespace of another; 0 once that has gone.
pub fn link_target(link: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: plain integers.
    let mut info: LinkInfo = unsafe { zeroed() };
    let length = size_of::<LinkInfo>() as u32;
    let bpf_fd = link.as_raw_fd() as u32;
    let mut attributes = InfoByFd { bpf_fd, length, info: std::ptr::from_mut(&mut info) as u64 };
    bpf(Command::InfoByFd, &mut attributes)?;
    Ok(info.target)
}

/// The ids of the maps that a program uses. aya asks by the program's id, which takes CAP_SYS_ADMIN.
pub fn maps_of(program: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0; MOST_MAPS];
    // SAFETY: plain integers.
    let mut info: ProgramInfo = unsafe { zeroed() };
    (info.maps, info.map_ids) = (MOST_MAPS as u32, ids.as_mut_ptr() as u64);
    let length = size_of::<ProgramInfo>() as u32;
    let bpf_fd = program.as_raw_fd() as u32;
    let mut attributes = InfoByFd { bpf_fd, length, info: std::ptr::from_mut(&mut info) as u64 };
    bpf(Command::InfoByFd, &mut attributes)?;
    ids.truncate(info.maps as usize);
    Ok(ids)
}

/// Puts another program behind a link; no packet finds none in between.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link_fd, new_program_fd) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    let mut attributes = LinkUpdate { link_fd, new_program_fd, flags: 0, old_program_fd: 0 };
    bpf(Command::LinkUpdate, &mut attributes).map(drop)
}

/// Returns after an RCU grace period: all programs that were running have ended (membarrier(2), `MEMBARRIER_CMD_GLOBAL`
/// is `synchronize_rcu` in kernel/sched/membarrier.c).
pub fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: no memory is passed.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // Kernels with nohz_full CPUs have no such command; programs run for microseconds.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
