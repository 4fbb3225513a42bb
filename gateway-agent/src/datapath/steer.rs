//! `steer` on the network namespace, and the sockets that it gives connections to.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use aya::programs::links::FdLink;

use super::maps::Maps;
use super::pins::Pins;
use super::programs::{Programs, STEER};

/// The namespace of this thread: sockets and interfaces are of it.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Attaches the program, unless the link of an earlier agent has it behind it already.
pub fn attach(programs: &mut Programs, pins: &Pins) -> io::Result<()> {
    let namespace = File::open(NAMESPACE)?;
    // Inodes of nsfs have 32 bits, as in `struct bpf_link_info`.
    let inode = namespace.metadata()?.ino() as u32;
    for (hook, target, path) in pins.links()? {
        if hook == STEER && target != inode {
            fs::remove_file(path)?;
        }
    }
    let pin = pins.link(STEER, inode);
    if pin.exists() {
        return Ok(());
    }
    let id = programs.steer.attach(&namespace).map_err(io::Error::other)?;
    let link = FdLink::from(programs.steer.take_link(id).map_err(io::Error::other)?);
    link.pin(pin).map(drop).map_err(io::Error::other)
}

/// From now on connections go to these sockets; those of an earlier agent get no more.
pub fn give(sockets: &[BorrowedFd<'_>], maps: &Maps) -> io::Result<()> {
    for (worker, socket) in (0..).zip(sockets) {
        maps.agent_sockets.put(&worker, &(socket.as_raw_fd() as u32))?;
    }
    Ok(())
}
