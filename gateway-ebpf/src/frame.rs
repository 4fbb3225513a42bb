//! The two frame types of the pipeline behind one trait, and the only place where packet bytes become reachable.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, xdp_md};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data,
    bpf_xdp_adjust_tail, bpf_xdp_load_bytes,
};
use gateway_common::checksum;

/// Length of an Ethernet header. Programs are only attached to Ethernet interfaces.
pub const ETHERNET: u32 = 14;
/// No header that the pipeline reads starts beyond this offset.
const FURTHEST: u64 = 511;

/// What a stage needs of a frame. Offsets are from the start of the Ethernet header.
pub trait Frame: Copy {
    /// TC sees skbs: they can grow, may be GSO or CHECKSUM_PARTIAL, and can go to any way out.
    const TC: bool;
    /// The verdict that leaves the packet to the kernel, untouched.
    const PASS: i32;
    const DROP: i32;

    fn context(self) -> *mut c_void;
    fn start(self) -> usize;
    fn end(self) -> usize;
    /// Bytes of the whole frame, also of what does not lie in the linear part.
    fn length(self) -> u32;
    /// The interface that the frame came in on.
    fn interface(self) -> u32;
    /// The MTU of an interface, 0 for that which the frame came in on; bytes of the IP packet.
    #[inline(always)]
    fn mtu(self, interface: u32) -> u16 {
        let mut mtu = 0u32;
        // SAFETY: the context is valid. Whether the frame fits or not, the MTU is answered.
        unsafe { bpf_check_mtu(self.context(), interface, &mut mtu, 0, 0) };
        if mtu == 0 || mtu > u16::MAX as u32 { u16::MAX } else { mtu as u16 }
    }
    /// Makes the first `bytes` of the frame reachable.
    fn pull(self, bytes: u32) -> bool;
    /// How many packets on the wire this frame stands for.
    fn segments(self) -> u32;
    /// Payload of each of these, 0 if the frame is no GSO frame.
    fn segment_size(self) -> u32;
    /// Cuts the frame (never lengthens it).
    fn shrink(self, length: u32) -> bool;
    /// Cuts or lengthens the frame, and makes its first `headers` bytes reachable. XDP only cuts.
    fn resize(self, length: u32, headers: u32) -> bool;
    /// Copies out of the frame. Safe if `to` has room for `length` bytes, which the verifier checks.
    fn load(self, offset: u32, to: *mut u8, length: u32) -> bool;
    /// Applies differences of 16-bit sums to the transport checksum at `offset`: of the pseudo header and of the rest.
    fn update_transport_checksum(self, offset: u32, pseudo: u32, rest: u32, udp: bool, v6: bool) -> bool;
    /// Whether the transport checksum at `offset` is still to be filled in by the way out (CHECKSUM_PARTIAL).
    fn checksum_is_partial(self, offset: u32) -> bool;
    /// Sends the frame back where it came from, as it is.
    fn reply(self) -> i32;
    /// The same for a frame that a socket of this node sends: back to that socket.
    fn reply_inward(self) -> i32;
}

/// Hides a value from LLVM, which otherwise removes bounds checks that the verifier needs.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let mut hidden = value;
    // SAFETY: an empty operation on one register.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) hidden, options(nomem, nostack, preserves_flags)) };
    hidden
}

/// The bytes at a constant offset as `T`, if the linear part of the frame reaches so far.
///
/// Multi-byte fields may be misaligned; eBPF allows that for packets where the machine does (x86-64, arm64).
#[inline(always)]
pub fn fixed<T, const OFFSET: usize>(frame: impl Frame) -> Option<&'static mut T> {
    let start = frame.start();
    if start + OFFSET + size_of::<T>() > frame.end() {
        return None;
    }
    // SAFETY: checked against the end of the packet on this line's predecessor; the verifier checks it again.
    Some(unsafe { &mut *((start + OFFSET) as *mut T) })
}

/// The same at an offset that is known at run time only.
#[inline(always)]
pub fn at<T>(frame: impl Frame, offset: u32) -> Option<&'static mut T> {
    let offset = opaque(offset as u64) & FURTHEST;
    let start = frame.start() + offset as usize;
    if start + size_of::<T>() > frame.end() {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { &mut *(start as *mut T) })
}

/// An skb at TC ingress.
#[derive(Clone, Copy)]
pub struct Tc(pub *mut __sk_buff);

// bpf_l4_csum_replace flags; BPF_F_IPV6 is of Linux 6.16.
const PSEUDO_HEADER: u64 = 0x10;
const MANGLED_ZERO: u64 = 0x20;
const IPV6: u64 = 0x80;

impl Frame for Tc {
    const TC: bool = true;
    const PASS: i32 = aya_ebpf::bindings::TC_ACT_UNSPEC;
    const DROP: i32 = aya_ebpf::bindings::TC_ACT_SHOT;

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn start(self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.0).data as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0).data_end as usize }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn interface(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn pull(self, bytes: u32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_skb_pull_data(self.0, bytes) == 0 }
    }

    #[inline(always)]
    fn segments(self) -> u32 {
        // SAFETY: as above.
        let segments = unsafe { (*self.0).gso_segs };
        if segments > 1 { segments } else { 1 }
    }

    #[inline(always)]
    fn segment_size(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).gso_size }
    }

    #[inline(always)]
    fn shrink(self, length: u32) -> bool {
        // SAFETY: as above.
        length >= self.length() || unsafe { bpf_skb_change_tail(self.0, length, 0) == 0 }
    }

    #[inline(always)]
    fn resize(self, length: u32, headers: u32) -> bool {
        // SAFETY: as above.
        (length == self.length() || unsafe { bpf_skb_change_tail(self.0, length, 0) == 0 })
            && (self.start() + headers as usize <= self.end() || self.pull(headers))
    }

    #[inline(always)]
    fn load(self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: as above; the verifier checks `to`.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn update_transport_checksum(self, offset: u32, pseudo: u32, rest: u32, udp: bool, v6: bool) -> bool {
        let udp = if udp { MANGLED_ZERO } else { 0 };
        // SAFETY: as above; the helper checks the offset.
        unsafe {
            if v6 {
                // Before 6.16 there is no flag for it, and the kernel gets CHECKSUM_COMPLETE of IPv6 wrong by itself.
                if bpf_l4_csum_replace(self.0, offset, 0, pseudo as u64, udp | PSEUDO_HEADER | IPV6) != 0
                    && bpf_l4_csum_replace(self.0, offset, 0, pseudo as u64, udp | PSEUDO_HEADER) != 0
                {
                    return false;
                }
            } else if bpf_l4_csum_replace(self.0, offset, 0, pseudo as u64, udp | PSEUDO_HEADER) != 0 {
                return false;
            }
            rest == 0 || bpf_l4_csum_replace(self.0, offset, 0, rest as u64, udp) == 0
        }
    }

    #[inline(always)]
    fn checksum_is_partial(self, offset: u32) -> bool {
        // A change of payload does not touch the field of such an skb: that is how it shows.
        let Some(before) = at::<u16>(self, offset).map(|field| *field) else { return false };
        // UDP without a checksum.
        if before == 0 {
            return false;
        }
        // SAFETY: as above.
        if unsafe { bpf_l4_csum_replace(self.0, offset, 0, 1, 0) } != 0 {
            return false;
        }
        let Some(field) = at::<u16>(self, offset) else { return false };
        let partial = *field == before;
        *field = before;
        partial
    }

    #[inline(always)]
    fn reply(self) -> i32 {
        // SAFETY: as above.
        unsafe { bpf_redirect(self.interface(), 0) as i32 }
    }

    #[inline(always)]
    fn reply_inward(self) -> i32 {
        // SAFETY: as above.
        unsafe { bpf_redirect(self.interface(), BPF_F_INGRESS as u64) as i32 }
    }
}

/// A frame in XDP, before there is an skb.
#[derive(Clone, Copy)]
pub struct Xdp(pub *mut xdp_md);

impl Frame for Xdp {
    const TC: bool = false;
    const PASS: i32 = aya_ebpf::bindings::xdp_action::XDP_PASS as i32;
    const DROP: i32 = aya_ebpf::bindings::xdp_action::XDP_DROP as i32;

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn start(self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.0).data as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0).data_end as usize }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // 64 bits wide: the verifier allows no 32-bit arithmetic on pointers.
        opaque(opaque(self.end() as u64) - opaque(self.start() as u64)) as u32
    }

    #[inline(always)]
    fn interface(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn pull(self, _bytes: u32) -> bool {
        false
    }

    #[inline(always)]
    fn segments(self) -> u32 {
        1
    }

    #[inline(always)]
    fn segment_size(self) -> u32 {
        0
    }

    #[inline(always)]
    fn shrink(self, length: u32) -> bool {
        let surplus = self.length() as i32 - length as i32;
        // SAFETY: as above.
        surplus <= 0 || unsafe { bpf_xdp_adjust_tail(self.0, -surplus) == 0 }
    }

    #[inline(always)]
    fn resize(self, length: u32, _headers: u32) -> bool {
        length <= self.length() && self.shrink(length)
    }

    #[inline(always)]
    fn load(self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: as above; the verifier checks `to`.
        unsafe { bpf_xdp_load_bytes(self.0, offset, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn update_transport_checksum(self, offset: u32, pseudo: u32, rest: u32, udp: bool, _v6: bool) -> bool {
        let Some(field) = at::<u16>(self, offset) else { return false };
        if udp && *field == 0 {
            return true;
        }
        let sum = checksum::update(*field, 0, pseudo as u64 + rest as u64);
        *field = if udp && sum == 0 { 0xffff } else { sum };
        true
    }

    #[inline(always)]
    fn checksum_is_partial(self, _offset: u32) -> bool {
        false
    }

    #[inline(always)]
    fn reply(self) -> i32 {
        aya_ebpf::bindings::xdp_action::XDP_TX as i32
    }

    #[inline(always)]
    fn reply_inward(self) -> i32 {
        Xdp::DROP
    }
}
