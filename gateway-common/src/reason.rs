//! Why a packet was refused or dropped. The discriminant is the index in the map `DROPS`, the name is
//! the metric label `reason` and the line in ARCHITECTURE.md (a test compares them).

/// How the sender learns of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// TCP: RST; UDP: ICMP port unreachable.
    Refuse,
    /// ICMP or ICMPv6 time exceeded.
    TimeExceeded,
    /// ICMP fragmentation needed or ICMPv6 packet too big.
    TooBig,
    /// Nothing is sent.
    Silent,
    /// TLS: a fatal alert, then the connection is closed.
    Alert,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $index:literal, $name:literal, $answer:ident;)+) => {
        /// One reason why a packet did not go on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason { $($(#[doc = $doc])+ $variant = $index,)+ }

        impl Reason {
            /// Every reason, in the order of the map.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The metric label.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)+ }
            }

            /// What the sender gets.
            pub const fn answer(self) -> Answer {
                match self { $(Reason::$variant => Answer::$answer,)+ }
            }

            /// One line of explanation for people.
            pub const fn description(self) -> &'static str {
                match self { $(Reason::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The reason with this index, if there is one.
            pub const fn from_index(index: u32) -> Option<Reason> {
                match index { $($index => Some(Reason::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// The address belongs to a Gateway, the port and protocol to none of its listeners.
    NoListener = 1, "no_listener", Refuse;
    /// The backendRef picked by weight has no endpoint that is ready.
    NoBackend = 2, "no_backend", Refuse;
    /// The backendRef picked by weight is invalid (see the route's ResolvedRefs condition).
    InvalidBackend = 3, "invalid_backend", Refuse;
    /// No room for a new flow in FLOWS.
    FlowTableFull = 4, "flow_table_full", Refuse;
    /// No free source port towards the picked backend after the tries a packet may make.
    PortsExhausted = 5, "ports_exhausted", Refuse;
    /// The endpoint of this TCP connection has gone.
    BackendGone = 6, "backend_gone", Refuse;
    /// A TCP segment to a listener that opens nothing and belongs to no connection known here.
    UnknownConnection = 7, "unknown_connection", Refuse;
    /// A TCP RST to a listener that belongs to no connection known here; a RST is never answered.
    StrayReset = 8, "stray_reset", Silent;
    /// The TTL or hop limit ran out at this hop.
    TtlExpired = 9, "ttl_expired", TimeExceeded;
    /// The packet is larger than the MTU of its way out; Sluice fragments none, also where DF is not set.
    PacketTooBig = 10, "packet_too_big", TooBig;
    /// The node has no route to the backend or back to the client, or does not forward.
    NoRoute = 11, "no_route", Refuse;
    /// Headers to a Gateway address are truncated or contradict each other, or the kernel refused to edit the frame.
    Malformed = 12, "malformed", Silent;
    /// A fragment whose first fragment did not come before there was no more room to hold it.
    FragmentUnmatched = 13, "fragment_unmatched", Silent;
    /// What a client sends first to a TLS listener is no TLS: plain HTTP, an SSLv2 hello, anything.
    NotTls = 14, "not_tls", Alert;
    /// A ClientHello that contradicts itself, or a server name that is none.
    MalformedHello = 15, "malformed_hello", Alert;
    /// No listener and route on this address and port take the server name, or there is none.
    UnrecognizedName = 16, "unrecognized_name", Refuse;
    /// None of the backends that were tried for a TLS connection answered.
    BackendSilent = 17, "backend_silent", Alert;
    /// The client ended its side before the ClientHello was whole.
    HelloAbandoned = 18, "hello_abandoned", Refuse;
    /// The ClientHello under way had to make room for newer ones.
    HelloEvicted = 19, "hello_evicted", Refuse;
    /// A segment out of order that may belong to a handshake under way: its sender sends it again.
    EarlySegment = 20, "early_segment", Silent;
}

/// Entries of the map `DROPS`: index 0 is unset.
pub const REASONS: usize = Reason::ALL.len() + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_dense_and_names_are_unique() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i + 1);
            assert_eq!(Reason::from_index(*reason as u32), Some(*reason));
            assert_eq!(Reason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
        assert_eq!(Reason::from_index(0), None);
    }
}
