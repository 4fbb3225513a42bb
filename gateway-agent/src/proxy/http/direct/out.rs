//! What is on its way to a socket.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use super::head;
use crate::proxy::http::forwarded;

/// Bodies of less are copied behind their heads: that costs less than a list of two parts does.
const SMALL: usize = 8 << 10;

/// Bytes of heads and small bodies, and a larger piece behind them.
#[derive(Debug, Default)]
pub struct Out {
    pub bytes: Vec<u8>,
    written: usize,
    piece: Bytes,
    /// Something was written since the stream was flushed.
    unflushed: bool,
}

impl Out {
    pub fn new(bytes: Vec<u8>) -> Out {
        Out { bytes, ..Out::default() }
    }

    /// There is room for more before all of it is written.
    pub fn has_room(&self) -> bool {
        self.piece.is_empty() && self.bytes.len() < SMALL
    }

    pub fn is_empty(&self) -> bool {
        self.written == self.bytes.len() && self.piece.is_empty()
    }

    /// Behind what is there, which [has room](Out::has_room).
    pub fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            self.bytes.extend_from_slice(&piece);
        } else {
            self.piece = piece;
        }
    }

    /// A piece as a chunk, whose end [follows](Out::close_chunk) it.
    pub fn push_chunk(&mut self, piece: Bytes) {
        // Writing to a Vec does not fail.
        let _ = write!(self.bytes, "{:x}\r\n", piece.len());
        self.push(piece);
    }

    /// Before anything else goes.
    pub fn close_chunk(&mut self) {
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// What is behind the last chunk.
    pub fn end_chunks(&mut self, trailers: Option<&HeaderMap>) {
        self.bytes.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| forwarded::may_trail(name)) {
            head::write_header(&mut self.bytes, name, value.as_bytes());
        }
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Until all has gone.
    pub fn poll(&mut self, cx: &mut Context<'_>, mut to: Pin<&mut impl AsyncWrite>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let bytes = &self.bytes[self.written..];
            let written = match (bytes, &self.piece[..]) {
                (bytes, []) => ready!(to.as_mut().poll_write(cx, bytes))?,
                ([], piece) => ready!(to.as_mut().poll_write(cx, piece))?,
                (bytes, piece) => {
                    let both = [IoSlice::new(bytes), IoSlice::new(piece)];
                    ready!(to.as_mut().poll_write_vectored(cx, &both))?
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            let of_bytes = written.min(self.bytes.len() - self.written);
            self.written += of_bytes;
            self.piece.advance(written - of_bytes);
        }
        self.bytes.clear();
        (self.written, self.piece) = (0, Bytes::new());
        if self.unflushed {
            ready!(to.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
