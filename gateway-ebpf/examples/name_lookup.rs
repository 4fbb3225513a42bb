//! For `cargo xtask bench sni`, never part of the object: looks a server name up in the map that Sluice has, and in the LPM trie
//! that it might have had. Each program is run again and again by BPF_PROG_TEST_RUN; `prepare` is what they all begin with.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use gateway_common::{Address, SNI_NAME, SniKey, SniName, server_name};

const NAMES: usize = 16_384;
/// Of a name's number.
const DIGITS: usize = 5;
const FOUND: i32 = 1;

/// Which names are asked for: one with a random number in it.
#[repr(C)]
pub struct Question {
    pub name: [u8; 64],
    pub length: u32,
    /// Where its five digits are.
    pub digits: u32,
    pub names: u32,
    /// As in `Listener::wildcards`.
    pub wildcards: u32,
}

/// The key of the trie: a listener's id, and a name from its end; NUL ends an exact one.
pub type Reversed = [u8; 256];

#[repr(C)]
struct Scratch {
    name: [u8; SNI_NAME],
    key: Key<Reversed>,
}

#[btf_map]
static QUESTION: Array<Question, 1> = Array::new();
#[btf_map]
static HASH: HashMap<SniKey, SniName, NAMES, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static TRIE: LpmTrie<Reversed, u64, NAMES> = LpmTrie::new();
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[inline(always)]
fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: per CPU, and only one program runs on a CPU at a time.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// Hides from LLVM what is known of a value, so that it cannot drop the bound that the verifier needs.
#[inline(always)]
fn opaque(value: u64) -> u64 {
    let mut hidden = value;
    // SAFETY: an empty operation on one register.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) hidden, options(nomem, nostack, preserves_flags)) };
    hidden
}

/// Puts the name into working memory, and says how long it is and which wildcards there are.
#[inline(always)]
fn prepare() -> Option<(u32, u32)> {
    let question = QUESTION.get(0)?;
    let scratch = scratch()?;
    let (from, to) = (question.name.as_ptr().cast::<u64>(), scratch.name.as_mut_ptr().cast::<u64>());
    for i in 0..8 {
        // SAFETY: both have 64 bytes, at multiples of 8.
        unsafe { *to.add(i) = *from.add(i) };
    }
    // SAFETY: a helper without conditions.
    let mut number = unsafe { bpf_get_prandom_u32() } % question.names.max(1);
    for i in 0..DIGITS {
        let place = opaque(question.digits as u64 + (DIGITS - 1 - i) as u64) & 63;
        scratch.name[place as usize] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    Some((question.length, question.wildcards))
}

#[classifier]
pub fn blank(_context: TcContext) -> i32 {
    if prepare().is_some() { FOUND } else { 0 }
}

/// The walk over a name, from its end, as Sluice does it.
#[repr(C)]
struct Search {
    hash: u64,
    wildcard: u64,
    left: u32,
    labels: u32,
    wildcards: u32,
    matched: bool,
}

#[classifier]
pub fn by_hash(_context: TcContext) -> i32 {
    let Some((length, wildcards)) = prepare() else { return 0 };
    let mut search =
        Search { hash: server_name::EMPTY, wildcard: 0, left: length, labels: 0, wildcards, matched: false };
    let context = core::ptr::from_mut(&mut search).cast::<c_void>();
    // SAFETY: the callback has the signature that the kernel calls, the context outlives the call.
    unsafe { bpf_loop(server_name::LONGEST as u32, hash_byte as *const () as *mut c_void, context, 0) };
    let is_found = lookup(server_name::finish(search.hash), 0) || search.matched && lookup(search.wildcard, 1);
    if is_found { FOUND } else { 0 }
}

unsafe extern "C" fn hash_byte(_index: u32, search: *mut Search) -> i64 {
    // SAFETY: the context of the call.
    let search = unsafe { &mut *search };
    let Some(scratch) = scratch() else { return 1 };
    if search.left == 0 {
        return 1;
    }
    search.left -= 1;
    let byte = server_name::lower(scratch.name[(opaque(search.left as u64) & 255) as usize]);
    if byte == b'.' {
        search.labels += 1;
        if search.wildcards & server_name::wildcard_bit(search.labels) != 0 {
            let hash = server_name::finish(search.hash);
            if lookup(hash, 1) {
                search.wildcard = hash;
                search.matched = true;
            }
        }
    }
    search.hash = server_name::step(search.hash, byte);
    0
}

#[inline(always)]
fn lookup(hash: u64, wildcard: u8) -> bool {
    let key = SniKey { address: Address::UNSET, hash, port: 443, wildcard, _pad: [0; 5] };
    HASH.get_ptr(&key).is_some()
}

/// The copy of a name into the key of the trie.
#[repr(C)]
struct Copying {
    left: u32,
    to: u32,
}

#[classifier]
pub fn by_trie(_context: TcContext) -> i32 {
    let Some((length, _)) = prepare() else { return 0 };
    let Some(scratch) = scratch() else { return 0 };
    let mut copying = Copying { left: length, to: 2 };
    let context = core::ptr::from_mut(&mut copying).cast::<c_void>();
    // SAFETY: as above.
    unsafe { bpf_loop(server_name::LONGEST as u32, copy_byte as *const () as *mut c_void, context, 0) };
    // The listener, the name, NUL.
    scratch.key.data[(opaque(copying.to as u64) & 255) as usize] = 0;
    scratch.key.prefix_len = (copying.to + 1) * 8;
    if TRIE.get(&scratch.key).is_some() { FOUND } else { 0 }
}

unsafe extern "C" fn copy_byte(_index: u32, copying: *mut Copying) -> i64 {
    // SAFETY: the context of the call.
    let copying = unsafe { &mut *copying };
    let Some(scratch) = scratch() else { return 1 };
    if copying.left == 0 {
        return 1;
    }
    copying.left -= 1;
    let byte = server_name::lower(scratch.name[(opaque(copying.left as u64) & 255) as usize]);
    scratch.key.data[(opaque(copying.to as u64) & 255) as usize] = byte;
    copying.to += 1;
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
