//! What a program did with a frame, and the few things a test can say about it.

use std::fmt::Write;

use gateway_common::Reason;

use crate::net::Port;
use crate::packet::Packet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Tc,
    Xdp,
    /// `egress_tc`.
    Egress,
}

impl Hook {
    /// Of ingress.
    pub const BOTH: [Hook; 2] = [Hook::Tc, Hook::Xdp];
}

/// Return values, include/uapi/linux/bpf.h.
mod verdict {
    pub const TCX_NEXT: i32 = -1;
    pub const TC_ACT_SHOT: i32 = 2;
    pub const TC_ACT_REDIRECT: i32 = 7;
    pub const XDP_DROP: i32 = 1;
    pub const XDP_PASS: i32 = 2;
    pub const XDP_TX: i32 = 3;
    pub const XDP_REDIRECT: i32 = 4;
}

/// What a verdict means, whatever the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// On to whoever is next.
    Next,
    /// Out of an interface.
    Out,
    /// Nowhere.
    Dropped,
}

#[derive(Debug)]
pub struct Outcome {
    pub hook: Hook,
    /// Where the frame came in.
    pub port: Port,
    pub verdict: i32,
    pub input: Vec<u8>,
    pub frame: Vec<u8>,
    /// What DROPS counted.
    pub reasons: Vec<Reason>,
}

/// Where the IP packet starts. Before it a redirect to a neighbour leaves MAC addresses that the kernel fills in.
const ETHER_TYPE: usize = 12;

impl Outcome {
    pub fn went(&self) -> Went {
        match (self.hook, self.verdict) {
            (Hook::Tc | Hook::Egress, verdict::TCX_NEXT) | (Hook::Xdp, verdict::XDP_PASS) => Went::Next,
            (Hook::Tc | Hook::Egress, verdict::TC_ACT_REDIRECT)
            | (Hook::Xdp, verdict::XDP_TX | verdict::XDP_REDIRECT) => Went::Out,
            (Hook::Tc | Hook::Egress, verdict::TC_ACT_SHOT) | (Hook::Xdp, verdict::XDP_DROP) => Went::Dropped,
            (hook, verdict) => panic!("{hook:?} returned {verdict}, which no program of Sluice may"),
        }
    }

    /// The frame goes on as it came, and nothing was counted.
    #[track_caller]
    pub fn untouched(&self) {
        self.went_as(Went::Next, &[]);
        compare(&self.frame, &self.input, 0);
    }

    /// The frame leaves as described, MAC addresses aside (the kernel writes them after `bpf_redirect_neigh`).
    #[track_caller]
    pub fn forwarded(&self, expected: &Packet) {
        self.forwarded_frame(&expected.frame());
    }

    #[track_caller]
    pub fn forwarded_frame(&self, expected: &[u8]) {
        self.went_as(Went::Out, &[]);
        compare(&self.frame, expected, ETHER_TYPE);
    }

    /// The frame leaves as described, MAC addresses and all.
    #[track_caller]
    pub fn forwarded_whole(&self, expected: &Packet) {
        self.went_as(Went::Out, &[]);
        compare(&self.frame, &expected.frame(), 0);
    }

    /// The sender gets this answer.
    #[track_caller]
    pub fn answered(&self, reason: Reason, expected: &Packet) {
        self.went_as(Went::Out, &[reason]);
        compare(&self.frame, &expected.frame(), ETHER_TYPE);
    }

    /// The sender gets this back, and nothing is wrong.
    #[track_caller]
    pub fn replied(&self, expected: &Packet) {
        self.went_as(Went::Out, &[]);
        compare(&self.frame, &expected.frame(), 0);
    }

    /// The frame goes on to the next in this form.
    #[track_caller]
    pub fn passed(&self, expected: &Packet) {
        self.went_as(Went::Next, &[]);
        compare(&self.frame, &expected.frame(), ETHER_TYPE);
    }

    /// What the frame said is known now, and nobody gets anything.
    #[track_caller]
    pub fn consumed(&self) {
        self.went_as(Went::Dropped, &[]);
    }

    /// Nobody gets anything.
    #[track_caller]
    pub fn dropped(&self, reason: Reason) {
        self.went_as(Went::Dropped, &[reason]);
    }

    #[track_caller]
    fn went_as(&self, wanted: Went, reasons: &[Reason]) {
        let went = self.went();
        assert!(
            went == wanted && self.reasons == reasons,
            "{:?}: wanted {wanted:?} with {reasons:?}, got {went:?} (verdict {}) with {:?}\n{}",
            self.hook,
            self.verdict,
            self.reasons,
            difference(&self.frame, &self.input, 0)
                .map_or("frame as it came".into(), |d| format!("frame (left: after, right: before)\n{d}"))
        );
    }
}

#[track_caller]
fn compare(got: &[u8], wanted: &[u8], from: usize) {
    if let Some(difference) = difference(got, wanted, from) {
        panic!("the frame differs (left: got, right: wanted)\n{difference}");
    }
}

/// Both frames side by side where they differ, 16 bytes a line; `None` if they are the same from `from` on.
pub fn difference(left: &[u8], right: &[u8], from: usize) -> Option<String> {
    if left.get(from..) == right.get(from..) {
        return None;
    }
    let mut text = format!("{} bytes, {} bytes\n", left.len(), right.len());
    for start in (0..left.len().max(right.len())).step_by(16) {
        let line = |frame: &[u8]| {
            let end = frame.len().min(start + 16);
            frame.get(start..end).unwrap_or_default().iter().fold(String::new(), |mut line, byte| {
                let _ = write!(line, "{byte:02x} ");
                line
            })
        };
        let (l, r) = (line(left), line(right));
        let mark = if l == r { ' ' } else { '*' };
        let _ = writeln!(text, "{mark} {start:4}  {l:48}  {r}");
    }
    Some(text)
}
