//! What clients of HTTP/2 do wrong, of which h2 tells nobody here: it answers by RST_STREAM and GOAWAY (RFC 9113 sections 6.4 and 6.8). So
//! the agent's frames are read on their way out.

use std::sync::Arc;

use super::answer::Reason;
use super::metrics::Metrics;

const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
/// Before what a frame carries.
const HEAD: usize = 9;
/// Of a GOAWAY's, what is wanted: its last stream and its code.
const MOST: usize = HEAD + 8;

#[derive(Debug)]
pub struct Faults {
    metrics: Arc<Metrics>,
    /// The begin of the frame that is under way.
    frame: [u8; MOST],
    begun: usize,
    /// So much of it is to come and is of no interest.
    skip: usize,
}

impl Faults {
    pub fn new(metrics: Arc<Metrics>) -> Faults {
        Faults { metrics, frame: [0; MOST], begun: 0, skip: 0 }
    }

    /// These bytes have gone out behind the last.
    pub fn went(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let some = self.skip.min(bytes.len());
                self.skip -= some;
                bytes = &bytes[some..];
                continue;
            }
            let some = (self.wanted() - self.begun).min(bytes.len());
            self.frame[self.begun..self.begun + some].copy_from_slice(&bytes[..some]);
            self.begun += some;
            bytes = &bytes[some..];
            if self.begun >= HEAD && self.begun == self.wanted() {
                self.whole();
            }
        }
    }

    /// Bytes of the frame that are to be seen.
    fn wanted(&self) -> usize {
        match self.frame[3] {
            _ if self.begun < HEAD => HEAD,
            RST_STREAM => HEAD + self.length().min(4),
            GOAWAY => HEAD + self.length().min(8),
            _ => HEAD,
        }
    }

    fn length(&self) -> usize {
        usize::from(self.frame[0]) << 16 | usize::from(self.frame[1]) << 8 | usize::from(self.frame[2])
    }

    fn whole(&mut self) {
        let code = match (self.frame[3], self.begun) {
            (RST_STREAM, 13) => &self.frame[9..13],
            (GOAWAY, 17) => &self.frame[13..17],
            _ => &[],
        };
        if let Ok(code) = <[u8; 4]>::try_from(code)
            && let Some(reason) = reason(u32::from_be_bytes(code))
        {
            self.metrics.answer(reason);
        }
        self.skip = HEAD + self.length() - self.begun;
        self.begun = 0;
    }
}

/// Of the codes of RFC 9113 section 7, those that blame the client.
fn reason(code: u32) -> Option<Reason> {
    match code {
        // PROTOCOL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR; COMPRESSION_ERROR.
        1 | 3..=6 | 9 => Some(Reason::Http2Error),
        // REFUSED_STREAM.
        7 => Some(Reason::TooManyStreams),
        // ENHANCE_YOUR_CALM.
        11 => Some(Reason::Http2Flood),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Shared;
    use super::*;

    #[test]
    fn codes_are_found_wherever_writes_end() {
        let data = [&[0, 1, 0, 0, 0, 0, 0, 0, 1][..], &[3; 256]].concat();
        let reset = |code| [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, code];
        let goaway = [&[0, 0, 12, 7, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 11][..], b"more"].concat();
        let all = [&data[..], &reset(7), &reset(8), &data, &reset(1), &[0, 0, 0, 3, 0, 0, 0, 0, 1], &goaway].concat();
        for piece in 1..all.len() {
            let metrics = Shared::default().join();
            let mut faults = Faults::new(Arc::clone(&metrics));
            all.chunks(piece).for_each(|bytes| faults.went(bytes));
            let counted = [Reason::TooManyStreams, Reason::Http2Error, Reason::Http2Flood];
            assert_eq!(counted.map(|reason| metrics.answered(reason)), [1, 1, 1], "{piece}");
        }
    }
}
