//! The far ends of the veth pairs: frames that really travel.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};

use crate::net::Port;
use crate::outcome::difference;

/// How long to wait for one more frame.
const PATIENCE: Duration = Duration::from_millis(60);

/// The host on the other end of a port.
pub struct Wire {
    port: Port,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Wire {
    pub fn open(port: Port) -> Result<Wire> {
        let name = format!("{}p", port.name());
        let interface = pnet_datalink::interfaces()
            .into_iter()
            .find(|interface| interface.name == name)
            .with_context(|| format!("no interface {name}"))?;
        let config = Config { read_timeout: Some(PATIENCE), ..Config::default() };
        match pnet_datalink::channel(&interface, config).with_context(|| format!("no packet socket on {name}"))? {
            Channel::Ethernet(sender, receiver) => Ok(Wire { port, sender, receiver }),
            _ => bail!("{name} is no Ethernet interface"),
        }
    }

    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.sender.send_to(frame, None).context("no room to send")?.context("cannot send")
    }

    /// What has arrived of IP, until nothing more comes.
    pub fn received(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let start = Instant::now();
        while let Ok(frame) = self.receiver.next() {
            // The node's own neighbour and multicast housekeeping is to multicast MAC addresses.
            if frame[0] & 1 == 0 && matches!(frame.get(12..14), Some([8, 0] | [0x86, 0xdd])) {
                frames.push(frame.to_vec());
            }
            if start.elapsed() > Duration::from_secs(2) {
                break;
            }
        }
        frames
    }

    /// These frames have arrived, and no others.
    #[track_caller]
    pub fn expect(&mut self, wanted: &[Vec<u8>]) {
        let got = self.received();
        for (got, wanted) in got.iter().zip(wanted) {
            if let Some(difference) = difference(got, wanted, 0) {
                panic!("a frame from {:?} differs (left: got, right: wanted)\n{difference}", self.port);
            }
        }
        assert_eq!(got.len(), wanted.len(), "frames from {:?}: {got:02x?}", self.port);
    }
}
