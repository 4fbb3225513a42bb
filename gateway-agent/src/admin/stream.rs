//! Answers of any length, made on another thread and sent in parts: memory for one part is enough.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

use crate::datapath::memory;

/// Bytes of a part.
const PART: usize = 32 * 1024;

/// The end that writes; blocks while the other end has too much.
pub struct Writer {
    part: Vec<u8>,
    parts: mpsc::Sender<Bytes>,
}

/// The end that reads.
pub struct Reader(mpsc::Receiver<Bytes>);

/// Runs `make` on a thread for blocking work.
pub fn stream(make: impl FnOnce(&mut Writer) -> io::Result<()> + Send + 'static) -> Reader {
    let (parts, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut writer = Writer { part: Vec::with_capacity(PART), parts };
        // The reader has gone, or has got what could be read: there is nobody else to tell.
        if let Err(error) = make(&mut writer).and_then(|()| writer.send()) {
            tracing::debug!(%error, "an answer was cut short");
        }
        memory::trim_heap();
    });
    Reader(receiver)
}

impl Writer {
    fn send(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART));
        self.parts.blocking_send(part.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART - 1024 {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        io::Write::write_all(self, text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl Reader {
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

impl Body for Reader {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}
