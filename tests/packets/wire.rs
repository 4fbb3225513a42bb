//! The far ends of the veth pairs: frames that really travel.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};

use crate::net::Port;
use crate::outcome::difference;

/// How long a frame more than expected has to show up.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a frame that is expected may take, on a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(3);

/// The host on the other end of a port.
pub struct Wire {
    port: Port,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Wire {
    pub fn open(port: Port) -> Result<Wire> {
        Wire::open_with(port, PATIENCE)
    }

    /// One that does not wait: for [`Wire::arrived`].
    pub fn open_at_once(port: Port) -> Result<Wire> {
        Wire::open_with(port, Duration::ZERO)
    }

    fn open_with(port: Port, patience: Duration) -> Result<Wire> {
        let name = format!("{}p", port.name());
        let interface = pnet_datalink::interfaces()
            .into_iter()
            .find(|interface| interface.name == name)
            .with_context(|| format!("no interface {name}"))?;
        let config = Config { read_timeout: Some(patience), ..Config::default() };
        match pnet_datalink::channel(&interface, config).with_context(|| format!("no packet socket on {name}"))? {
            Channel::Ethernet(sender, receiver) => Ok(Wire { port, sender, receiver }),
            _ => bail!("{name} is no Ethernet interface"),
        }
    }

    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.sender.send_to(frame, None).context("no room to send")?.context("cannot send")
    }

    /// What arrives of IP: so many frames, and those that come soon after.
    pub fn received(&mut self, expected: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let start = Instant::now();
        loop {
            match self.receiver.next() {
                Ok(frame) if is_of_interest(frame) => frames.push(frame.to_vec()),
                Ok(_) => {}
                Err(_) if frames.len() < expected && start.elapsed() < LIMIT => {}
                Err(_) => return frames,
            }
        }
    }

    /// What has arrived of IP.
    pub fn arrived(&mut self) -> Vec<(Port, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Ok(frame) = self.receiver.next() {
            if is_of_interest(frame) {
                frames.push((self.port, frame.to_vec()));
            }
        }
        frames
    }

    /// These frames have arrived, and no others.
    #[track_caller]
    pub fn expect(&mut self, wanted: &[Vec<u8>]) {
        let got = self.received(wanted.len());
        for (got, wanted) in got.iter().zip(wanted) {
            if let Some(difference) = difference(got, wanted, 0) {
                panic!("a frame from {:?} differs (left: got, right: wanted)\n{difference}", self.port);
            }
        }
        assert_eq!(got.len(), wanted.len(), "frames from {:?}: {got:02x?}", self.port);
    }
}

/// IP, without the node's own neighbour and multicast housekeeping, which is to multicast MAC addresses.
fn is_of_interest(frame: &[u8]) -> bool {
    frame[0] & 1 == 0 && matches!(frame.get(12..14), Some([8, 0] | [0x86, 0xdd]))
}
