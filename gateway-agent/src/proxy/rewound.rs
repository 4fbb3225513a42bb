//! A stream whose first bytes were read before.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::through::write_through;

pub struct Rewound<S> {
    read: Vec<u8>,
    taken: usize,
    stream: S,
}

impl<S> Rewound<S> {
    pub fn new(read: Vec<u8>, stream: S) -> Rewound<S> {
        Rewound { read, taken: 0, stream }
    }

    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What was not taken of the first bytes is lost.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken == self.read.len() {
            return Pin::new(&mut self.stream).poll_read(cx, to);
        }
        let left = &self.read[self.taken..];
        let part = left.len().min(to.remaining());
        to.put_slice(&left[..part]);
        self.taken += part;
        if self.taken == self.read.len() {
            (self.read, self.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

write_through!(Rewound);
