//! What a program decided, per packet, through aya-log: objects built with the feature `trace` only.

#[cfg(feature = "trace")]
macro_rules! trace {
    ($context:expr, $packet:expr, $verdict:expr) => {
        if $packet.transport != 0 {
            aya_log_ebpf::info!(
                &$context,
                "{:i}:{} -> {:i}:{} protocol {} flags {:x}: verdict {}",
                $packet.key.source.octets,
                $packet.key.source_port,
                $packet.key.destination.octets,
                $packet.key.destination_port,
                $packet.key.protocol,
                $packet.flags,
                $verdict
            );
        }
    };
}

#[cfg(not(feature = "trace"))]
macro_rules! trace {
    ($context:expr, $packet:expr, $verdict:expr) => {};
}
