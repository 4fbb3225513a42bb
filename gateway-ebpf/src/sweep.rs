//! Expires flows, and ends those whose endpoint has gone. The agent runs it with BPF_PROG_TEST_RUN.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_for_each_map_elem, bpf_ktime_get_coarse_ns};
use gateway_common::{Config, Flow, FlowKey, agent_backend, backend_flags, flow_flags, flow_state, protocol};

use crate::flow::other_half;
use crate::maps::{BACKENDS, CONFIG, EMBRYONIC, FLOWS};

#[repr(C)]
struct Sweep {
    now: u64,
    ended: u64,
}

/// Goes through FLOWS and EMBRYONIC once; answers how many flows ended.
#[inline(always)]
pub fn run() -> i32 {
    // SAFETY: no arguments.
    let mut sweep = Sweep { now: unsafe { bpf_ktime_get_coarse_ns() }, ended: 0 };
    let context = core::ptr::from_mut(&mut sweep).cast::<c_void>();
    // SAFETY: the callbacks have the signature that the kernel calls, `context` outlives the calls.
    unsafe {
        bpf_for_each_map_elem(
            core::ptr::from_ref(&FLOWS).cast_mut().cast(),
            established as *const () as *mut c_void,
            context,
            0,
        );
        bpf_for_each_map_elem(
            core::ptr::from_ref(&EMBRYONIC).cast_mut().cast(),
            embryonic as *const () as *mut c_void,
            context,
            0,
        );
    }
    sweep.ended as i32
}

/// How long a flow in this state may be silent, ns.
#[inline(always)]
fn patience(config: &Config, key: &FlowKey, flow: &Flow) -> u64 {
    if key.protocol == protocol::UDP {
        return if flow.state == flow_state::NEW { config.udp_new } else { config.udp_established };
    }
    match flow.state {
        flow_state::NEW | flow_state::CONNECTING | flow_state::REPLAYING => config.tcp_new,
        flow_state::ESTABLISHED => config.tcp_established,
        flow_state::HALF_CLOSED | flow_state::GONE => config.tcp_half_closed,
        _ => config.tcp_closed,
    }
}

#[inline(always)]
fn is_idle(flow: &Flow, now: u64, patience: u64) -> bool {
    // Another CPU may have written a later time.
    now > flow.last_seen && now - flow.last_seen > patience
}

/// Whether the endpoint is not in BACKENDS any more. Its id may be somebody else's by now.
#[inline(always)]
fn has_gone(flow: &Flow) -> bool {
    if flow.flags & flow_flags::REPLY != 0 || flow.state == flow_state::GONE {
        return false;
    }
    // One that does not have the whole hello yet is given up like one that never answers.
    if flow.state == flow_state::CONNECTING || flow.state == flow_state::REPLAYING {
        return false;
    }
    // SAFETY: read-only; an entry is replaced as a whole.
    let Some(backend) = (unsafe { BACKENDS.get(flow.backend) }) else { return true };
    let ports = if backend.flags & backend_flags::AGENT != 0 { agent_backend::PORTS } else { 1 };
    backend.address != flow.destination || flow.destination_port.wrapping_sub(backend.port) >= ports
}

extern "C" fn established(_map: *mut c_void, key: *mut FlowKey, flow: *mut Flow, sweep: *mut Sweep) -> i64 {
    // SAFETY: the kernel gives a key, its value and our context.
    let (key, flow, sweep) = unsafe { (&*key, &mut *flow, &mut *sweep) };
    let Some(config) = CONFIG.get(0) else { return 1 };
    let gone = has_gone(flow);
    let patience = patience(config, key, flow);
    // Most flows are neither: bottom halves are off while this runs.
    if !gone && !is_idle(flow, sweep.now, patience) {
        return 0;
    }
    let half = crate::flow::established(&other_half(flow, key.protocol));
    if gone && key.protocol == protocol::TCP {
        // Its next packet is answered with a RST.
        flow.state = flow_state::GONE;
        if let Some(half) = half {
            half.state = flow_state::GONE;
        }
        return 0;
    }
    if !gone && half.is_some_and(|half| !is_idle(half, sweep.now, patience)) {
        return 0;
    }
    crate::flow::end(key, flow, if gone { flow_state::GONE } else { flow.state });
    sweep.ended += 1;
    0
}

extern "C" fn embryonic(_map: *mut c_void, key: *mut FlowKey, flow: *mut Flow, sweep: *mut Sweep) -> i64 {
    // SAFETY: as above.
    let (key, flow, sweep) = unsafe { (&*key, &mut *flow, &mut *sweep) };
    let Some(config) = CONFIG.get(0) else { return 1 };
    let patience = patience(config, key, flow);
    if !has_gone(flow) && !is_idle(flow, sweep.now, patience) {
        return 0;
    }
    let other = other_half(flow, key.protocol);
    let half = crate::flow::embryonic(&other);
    if let Some(half) = &half
        && !has_gone(flow)
        && !is_idle(half, sweep.now, patience)
    {
        return 0;
    }
    // The others were told as they left FLOWS.
    if flow.state == flow_state::NEW {
        crate::flow::tell(key, flow, &other, half.as_deref(), flow.state);
    }
    let _ = EMBRYONIC.remove(&other);
    let _ = EMBRYONIC.remove(key);
    sweep.ended += 1;
    0
}
