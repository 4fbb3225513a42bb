//! What is on its way to a socket.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::head;
use crate::proxy::http::body::BodyError;
use crate::proxy::http::forwarded;

/// Bodies of less are copied behind their heads: that costs less than a list of two parts does.
pub const SMALL: usize = 8 << 10;

/// Bytes of heads and small bodies, and a larger piece behind them.
#[derive(Debug, Default)]
pub struct Out {
    pub bytes: Vec<u8>,
    written: usize,
    piece: Bytes,
    /// Something was written since the stream was flushed.
    unflushed: bool,
}

/// How the other side is told where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So much is left.
    Length(u64),
    Chunked {
        /// The end of the chunk before is to be written.
        open: bool,
    },
}

impl Framing {
    pub fn left(self) -> Option<u64> {
        match self {
            Framing::Length(left) => Some(left),
            Framing::Chunked { .. } => None,
        }
    }
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

    /// The next piece of a body, behind what is there, which [has room](Out::has_room). Whether it was the last. `trailers`: they are wanted.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        body: Pin<&mut impl Body<Data = Bytes, Error = BodyError>>,
        framing: &mut Framing,
        trailers: bool,
    ) -> Poll<Result<bool, BodyError>> {
        if let Framing::Chunked { open: open @ true } = framing {
            self.bytes.extend_from_slice(b"\r\n");
            *open = false;
        }
        let behind = match ready!(body.poll_frame(cx)?).map(Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => return Poll::Ready(Ok(false)),
            Some(Ok(data)) => return Poll::Ready(self.push(data, framing)),
            Some(Err(frame)) => frame.into_trailers().ok().filter(|_| trailers),
            None => None,
        };
        match framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Poll::Ready(Err("the body is shorter than it said".into())),
            Framing::Chunked { .. } => self.end_chunks(behind.as_ref()),
        }
        Poll::Ready(Ok(true))
    }

    fn push(&mut self, piece: Bytes, framing: &mut Framing) -> Result<bool, BodyError> {
        match framing {
            Framing::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or("the body is longer than it said")?;
            }
            Framing::Chunked { open } => {
                // Writing to a Vec does not fail.
                let _ = write!(self.bytes, "{:x}\r\n", piece.len());
                *open = true;
            }
        }
        if piece.len() < SMALL {
            self.bytes.extend_from_slice(&piece);
        } else {
            self.piece = piece;
        }
        Ok(*framing == Framing::Length(0))
    }

    /// What is behind the last chunk.
    fn end_chunks(&mut self, trailers: Option<&HeaderMap>) {
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
