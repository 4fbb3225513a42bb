//! `RequestMirror`: a copy of requests for another backend, whose answers nobody waits for.
//!
//! The body goes to both as it comes: to the request's own backend at that backend's speed, to the mirror as long as it keeps up. A mirror that
//! falls behind gets a request that breaks off, never a shorter one that looks whole.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::{Exchange, Filtering, Request, Response, Step, aside};
use crate::ir::http::Target;
use crate::proxy::http::body::{Body, BodyError};
use crate::proxy::http::upstream::send;

/// Bytes of a body that wait for a mirror, at most.
const WAITING: usize = 256 << 10;
/// Copies of a worker that are under way, at most; beyond that requests are not mirrored.
const UNDER_WAY: usize = 1024;
/// Of a copy, from its start to the end of its answer.
const TIME: Duration = Duration::from_secs(30);
/// The most of an answer that is read for the sake of its connection.
const DRAINED: usize = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// An invalid one mirrors nothing.
    pub target: Target,
    pub share: Share,
}

/// Of the requests: `of` of `out_of`. All: 1 of 1; a percentage is one of 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub of: u32,
    /// Not 0, not below `of`.
    pub out_of: u32,
}

impl Share {
    fn takes(self, random: u64) -> bool {
        (u128::from(random) * u128::from(self.out_of)) >> 64 < u128::from(self.of)
    }
}

impl Filtering for Mirror {
    async fn request(&self, exchange: &mut Exchange, request: &mut Request) -> Step {
        let Target::Cluster(cluster) = &self.target else { return Step::Continue };
        if !self.share.takes(exchange.local.random()) {
            return Step::Continue;
        }
        let Some(place) = exchange.local.mirrored.begin() else { return Step::Continue };
        let body = tee(request);
        let copy = aside::copy(exchange, request, body);
        let (local, snapshot) = (Rc::clone(&exchange.local), Rc::clone(&exchange.snapshot));
        let cluster = Arc::clone(cluster);
        tokio::task::spawn_local(async move {
            let _place = place;
            let mirror = async {
                if let Some(response) = send::to_any(&local, &snapshot, &cluster, copy).await {
                    drain(response).await;
                }
            };
            if timeout(TIME, mirror).await.is_err() {
                tracing::debug!(service = %cluster.service, "a mirror took too long");
            }
        });
        Step::Continue
    }
}

/// Reads an answer, so that its connection serves again. One that is too long costs the connection.
async fn drain(response: Response) {
    let mut body = response.into_body();
    let mut read = 0;
    while read <= DRAINED
        && let Some(Ok(frame)) = body.frame().await
    {
        read += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// The copies of a worker that are under way.
#[derive(Debug, Default)]
pub struct UnderWay(Rc<Cell<usize>>);

impl UnderWay {
    fn begin(&self) -> Option<Place> {
        (self.0.get() < UNDER_WAY).then(|| {
            self.0.set(self.0.get() + 1);
            Place(Rc::clone(&self.0))
        })
    }
}

struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Splits the body of a request: the request keeps it, and what it reads of it comes out of the other as well.
pub(super) fn tee(request: &mut Request) -> Body {
    if request.body().is_end_stream() {
        return Body::empty();
    }
    let body = std::mem::take(request.body_mut());
    let size = body.size_hint();
    let (parts, copied) = unbounded_channel();
    let waiting = Rc::default();
    let feed = Feed { parts, waiting: Rc::clone(&waiting) };
    *request.body_mut() = Body::boxed(Tee { body, feed: Some(feed) });
    Body::boxed(Copied { parts: copied, waiting, size, whole: false })
}

enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Without it the copy breaks off.
    End,
}

struct Tee {
    body: Body,
    /// `None`: the copy has all, or has been given up.
    feed: Option<Feed>,
}

struct Feed {
    parts: UnboundedSender<Part>,
    /// Bytes.
    waiting: Rc<Cell<usize>>,
}

impl Feed {
    /// Whether the copy keeps up.
    fn give(&self, part: Part) -> bool {
        if let Part::Data(data) = &part {
            let waiting = self.waiting.get();
            if waiting > 0 && waiting + data.len() > WAITING {
                return false;
            }
            self.waiting.set(waiting + data.len());
        }
        self.parts.send(part).is_ok()
    }
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let part = match &frame {
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => Some(Part::Data(data.clone())),
                (None, Some(trailers)) => Some(Part::Trailers(trailers.clone())),
                (None, None) => None,
            },
            Some(Err(_)) => {
                this.feed = None;
                None
            }
            None => Some(Part::End),
        };
        // Who has read a body of a known length does not ask for its end.
        let last = matches!(&frame, Some(Ok(_))) && this.body.is_end_stream();
        if let Some(feed) = &this.feed
            && let Some(part) = part
        {
            let ends = matches!(part, Part::End);
            let keeps_up = feed.give(part) && (!last || feed.give(Part::End));
            if ends || last || !keeps_up {
                this.feed = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Copied {
    parts: UnboundedReceiver<Part>,
    waiting: Rc<Cell<usize>>,
    /// Before its first byte.
    size: SizeHint,
    whole: bool,
}

impl HttpBody for Copied {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.whole {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.parts.poll_recv(cx)) {
            Some(Part::Data(data)) => {
                self.waiting.set(self.waiting.get() - data.len());
                Some(Ok(Frame::data(data)))
            }
            Some(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Part::End) => {
                self.whole = true;
                None
            }
            None => Some(Err("the mirrored request broke off, or went faster than its mirror".into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.whole
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::hash::mix;

    use super::*;

    #[test]
    fn a_share_of_requests_is_mirrored() {
        let taken = |of, out_of| (0..10_000).filter(|i| Share { of, out_of }.takes(mix(*i))).count();
        assert_eq!((taken(0, 100), taken(1, 1), taken(100, 100)), (0, 10_000, 10_000));
        assert!((2_300..2_700).contains(&taken(25, 100)));
        assert!((3_100..3_600).contains(&taken(1, 3)));
    }

    #[test]
    fn a_worker_has_so_many_copies_under_way() {
        let under_way = UnderWay::default();
        let places: Vec<_> = std::iter::from_fn(|| under_way.begin()).collect();
        assert_eq!(places.len(), UNDER_WAY);
        drop(places);
        assert!(under_way.begin().is_some());
    }
}
