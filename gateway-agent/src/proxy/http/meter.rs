//! What becomes of one request, from its head to the last byte of its answer: for counters and the access log. However a request ends, its
//! meter is dropped, and that is when it counts.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::access_log::{Identity, Line, Which};
use super::answer::Reason;
use super::body::{Body, BodyError};
use super::budget::{Account, Charge, Unread, cost};
use super::direct::SMALL;
use super::exchange::Scheme;
use super::grpc;
use super::guard::Signal;
use super::metrics::{Labels, Series};
use super::server::Session;
use super::snapshot::Listener;
use super::upload::Progress;
use super::worker::Local;
use crate::proxy::Origin;
use crate::proxy::pipes::Pipe;

/// How far requests come: the same one for all that come as far, on one worker and by one snapshot.
#[derive(Debug)]
pub struct Course {
    pub labels: Labels,
    pub series: Arc<Series>,
}

pub struct Meter {
    local: Rc<Local>,
    signal: Arc<Signal>,
    came: Instant,
    course: Option<Rc<Course>>,
    reason: Cell<Option<Reason>>,
    retries: Cell<u32>,
    /// Status, and when it was known.
    answered: Option<(StatusCode, Duration)>,
    /// Of a call of gRPC.
    call: Option<Call>,
    bytes: u64,
    whole: bool,
    /// Of a connection of HTTP/2, with the number of the request there.
    takers: Option<(Rc<Takers>, u64)>,
    /// Of the request's body, where there is one.
    upload: Option<Rc<Progress>>,
    logged: Option<Box<Logged>>,
    /// What tells when the connection that it became is over.
    upgraded: Option<Rc<Upgraded>>,
    charge: Charge,
    account: Arc<Account>,
    /// More of the answer may be here than was asked for.
    ahead: Option<Charge>,
}

/// What is known of how a call of gRPC ends.
#[derive(Debug, Default)]
struct Call {
    told: Option<grpc::Status>,
    /// Its answer broke off on the backend's side.
    is_broken: bool,
}

/// The answers of a connection of HTTP/2 that have given a piece and were not asked for the next: so long their clients have taken nothing.
/// What the connection as a whole does not take, the guard sees; this is for streams whose window stays closed.
#[derive(Debug, Default)]
pub struct Takers(RefCell<HashMap<u64, Instant>>);

impl Takers {
    /// Since when the slowest has taken nothing.
    pub fn slowest(&self) -> Option<Instant> {
        self.0.borrow().values().min().copied()
    }
}

/// What the access log wants to know beyond that.
#[derive(Debug)]
pub struct Logged {
    pub which: Which,
    pub identity: Identity,
    pub origin: Origin,
    pub scheme: Scheme,
    pub version: Version,
    pub method: Method,
    pub uri: Uri,
    pub host: Box<str>,
    pub user_agent: Option<HeaderValue>,
    pub session: Option<Rc<Session>>,
    pub random: u64,
}

impl Meter {
    /// `grpc`: it is a call of gRPC.
    pub fn new(
        local: Rc<Local>,
        (signal, account): (Arc<Signal>, Arc<Account>),
        came: Instant,
        grpc: bool,
        logged: Option<Box<Logged>>,
    ) -> Box<Meter> {
        Box::new(Meter {
            charge: local.budget.charge(cost::REQUEST),
            account,
            ahead: None,
            local,
            signal,
            came,
            course: None,
            reason: Cell::new(None),
            retries: Cell::new(0),
            answered: None,
            call: grpc.then(Call::default),
            bytes: 0,
            whole: false,
            takers: None,
            upload: None,
            logged,
            upgraded: None,
        })
    }

    /// Its connection becomes another, which is to say when it is over.
    pub fn upgrade(&mut self) -> Rc<Upgraded> {
        Rc::clone(self.upgraded.insert(Rc::default()))
    }

    /// The answer goes by a stream of its own.
    pub fn watch(&mut self, takers: Rc<Takers>, request: u64) {
        self.takers = Some((takers, request));
        self.charge.set(cost::STREAM);
    }

    /// The request has a body. `both_ways`: whatever is answered.
    pub fn upload(&mut self, both_ways: bool) -> Rc<Progress> {
        let progress = Rc::new(Progress { both_ways: Cell::new(both_ways), ..Progress::default() });
        self.upload = Some(Rc::clone(&progress));
        progress
    }

    fn given(&self) {
        if let Some((takers, request)) = &self.takers {
            takers.0.borrow_mut().insert(*request, Instant::now());
        }
    }

    fn asked(&self) {
        if let Some((takers, request)) = &self.takers {
            takers.0.borrow_mut().remove(request);
        }
    }

    /// The client may not take it for long. What is small is copied to the end of a head, unless it goes by HTTP/2.
    fn give(&self, piece: Bytes) -> Bytes {
        if self.takers.is_none() && piece.len() < SMALL { piece } else { self.account.give(piece) }
    }

    /// The request has come further.
    pub fn follow(&mut self, course: Rc<Course>) {
        if let Some(before) = &self.course {
            before.series.begun.take_back();
        }
        course.series.begun.add(1);
        self.course = Some(course);
    }

    /// The request has found its listener, which may have something to say on what is written down.
    pub fn found(&mut self, listener: &Listener) {
        if let (Some(logged), Some(log)) = (&mut self.logged, self.local.shared.log.get()) {
            logged.which = listener.ir.settings.logged.unwrap_or(log.which);
        }
    }

    /// It may be written down.
    pub fn is_logged(&self) -> bool {
        self.logged.is_some()
    }

    /// The agent answers by itself, or breaks off. Nobody does anything to a client that has left.
    pub fn refused(&self, reason: Reason) {
        if self.signal.has_left() {
            return;
        }
        self.local.metrics.answer(reason);
        self.reason.set(Some(reason));
    }

    /// Another attempt is made.
    pub fn retried(&self) {
        self.retries.set(self.retries.get() + 1);
    }

    /// Why the agent has broken off the request's body: the client was too slow, or sent what is no body. What went wrong after that is the
    /// client's doing, not the backend's.
    pub fn broken(&self) -> Option<Reason> {
        let is_late = self.upload.as_ref().is_some_and(|upload| upload.is_late.get());
        if is_late { Some(Reason::RequestTimeout) } else { self.signal.broken() }
    }

    /// Bytes of the request's body.
    fn uploaded(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.bytes.get())
    }

    fn told(&mut self, fields: &HeaderMap) {
        if let Some(call) = &mut self.call {
            call.told = grpc::Status::told(fields).or(call.told);
        }
    }

    /// What the caller takes its end for.
    fn call_status(&self) -> Option<grpc::Status> {
        let call = self.call.as_ref()?;
        let of_agent = || self.reason.get().map(Reason::grpc_status);
        Some(call.told.or_else(of_agent).unwrap_or_else(|| match self.answered {
            Some((status, _)) if status != StatusCode::OK => grpc::Status::of_http(status),
            Some(_) if self.whole => grpc::Status::Unknown,
            Some(_) if call.is_broken => grpc::Status::Internal,
            // The client has gone.
            _ => grpc::Status::Cancelled,
        }))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.asked();
        if let Some(reason) = self.broken().filter(|_| self.reason.get().is_none()) {
            // In the middle of the answer.
            self.refused(reason);
        }
        let took = self.came.elapsed();
        // The client has gone before there was an answer: 499, as others have it.
        let gone = || (StatusCode::from_u16(499).unwrap_or_default(), took);
        let (status, first_byte) = self.answered.unwrap_or_else(gone);
        let call = self.call_status();
        if let Some(course) = &self.course {
            if let Some(call) = call {
                course.series.call(call);
            }
            course.series.end(status, [first_byte, took], [self.uploaded(), self.bytes]);
            course.series.retries.add(u64::from(self.retries.get()));
        }
        if self.answered.is_none() {
            self.local.metrics.abandoned.add(1);
        }
        if let Some(logged) = self.logged.take() {
            let ending = Ending {
                local: Rc::clone(&self.local),
                logged,
                course: self.course.take(),
                came: self.came,
                status,
                call,
                reason: self.reason.get(),
                retries: self.retries.get(),
                first_byte,
                request_bytes: self.uploaded(),
                bytes: self.bytes,
                whole: self.whole,
            };
            match self.upgraded.take() {
                Some(upgraded) => upgraded.meet(Later::Answered(Box::new(ending))),
                None => ending.write(),
            }
        }
        self.signal.done();
    }
}

/// What is written of a request.
#[derive(Debug)]
struct Ending {
    local: Rc<Local>,
    logged: Box<Logged>,
    course: Option<Rc<Course>>,
    came: Instant,
    status: StatusCode,
    call: Option<grpc::Status>,
    reason: Option<Reason>,
    retries: u32,
    first_byte: Duration,
    request_bytes: u64,
    bytes: u64,
    whole: bool,
}

impl Ending {
    fn write(&self) {
        let Ending { local, logged, status, call, .. } = self;
        if !logged.which.takes(*status, *call, logged.random) {
            return;
        }
        let Some(log) = local.shared.log.get() else { return };
        let labels = self.course.as_ref().map(|course| &course.labels);
        let route = labels.and_then(|labels| labels.route.as_ref());
        let line = Line {
            time: Line::now(),
            id: logged.identity.id.to_str().unwrap_or_default(),
            trace: logged.identity.trace.to_str().unwrap_or_default(),
            client: logged.origin.client.ip(),
            gateway: logged.origin.gateway,
            scheme: logged.scheme.as_str(),
            protocol: match logged.version {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            },
            tls: logged.session.as_ref().and_then(|session| session.version),
            sni: logged.session.as_ref().and_then(|session| session.server_name.as_deref()),
            method: logged.method.as_str(),
            host: &logged.host,
            path: logged.uri.path_and_query().map_or("", |path| path.as_str()),
            user_agent: logged.user_agent.as_ref().and_then(|agent| agent.to_str().ok()),
            status: status.as_u16(),
            grpc_status: call.map(grpc::Status::number),
            reason: self.reason.map(Reason::name),
            listener: labels.map(|labels| labels.listener.to_string()),
            route: route.map(|(route, _)| route.to_string()),
            rule: route.map(|(_, rule)| &**rule),
            backend: labels.and_then(|labels| labels.backend.as_deref()),
            retries: self.retries,
            request_bytes: self.request_bytes,
            bytes: self.bytes,
            first_byte_ms: Line::milliseconds(self.first_byte),
            took_ms: Line::milliseconds(self.came.elapsed()),
            aborted: !self.whole,
        };
        let lost = log.write(&line, &mut local.lines.borrow_mut());
        local.metrics.lines_lost.add(lost);
    }
}

/// The line of a request whose connection was upgraded is written when that ends, whichever of the two is over first.
#[derive(Debug, Default)]
pub struct Upgraded(RefCell<Later>);

#[derive(Debug, Default)]
enum Later {
    /// Both are under way.
    #[default]
    Neither,
    /// The answer has gone.
    Answered(Box<Ending>),
    /// So many bytes went inwards and outwards. Why the agent ended it.
    Over([u64; 2], Option<Reason>),
}

impl Upgraded {
    /// See [`Later::Over`].
    pub fn is_over(&self, moved: [u64; 2], reason: Option<Reason>) {
        self.meet(Later::Over(moved, reason));
    }

    fn meet(&self, later: Later) {
        let (mut ending, [inwards, outwards], reason) = match (self.0.take(), later) {
            (Later::Answered(ending), Later::Over(moved, reason)) => (ending, moved, reason),
            (Later::Over(moved, reason), Later::Answered(ending)) => (ending, moved, reason),
            (_, first) => return drop(self.0.replace(first)),
        };
        ending.request_bytes += inwards;
        ending.bytes += outwards;
        ending.reason = ending.reason.or(reason);
        ending.write();
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("course", &self.course).finish_non_exhaustive()
    }
}

/// The body of an answer, with what is counted of it.
pub struct Metered {
    body: Body,
    /// As it was announced.
    length: Option<u64>,
    meter: Box<Meter>,
}

impl Metered {
    pub fn response(response: http::Response<Body>, mut meter: Box<Meter>) -> http::Response<Metered> {
        if !meter.signal.has_left() {
            meter.answered = Some((response.status(), meter.came.elapsed()));
            meter.local.metrics.responded(response.status());
        }
        meter.told(response.headers());
        if let Some(upload) = &meter.upload {
            upload.both_ways.set(true);
        }
        meter.given();
        response.map(|body| Metered { length: body.size_hint().exact(), body, meter })
    }

    /// See [`Body::is_piped`].
    pub fn is_piped(&self) -> bool {
        self.body.is_piped()
    }

    /// See [`Body::poll_fill`]. What is in the pipe is charged for.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &Pipe) -> Poll<Result<(usize, Unread), BodyError>> {
        let filled = ready!(self.body.poll_fill(cx, pipe))?;
        self.meter.bytes += filled as u64;
        Poll::Ready(Ok((filled, self.meter.account.charge(filled))))
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // HTTP/1 asks when all has gone.
        if self.meter.takers.is_some() {
            ready!(self.meter.local.budget.poll_room(cx, &self.meter.account));
        }
        self.meter.asked();
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.meter.given();
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(piece) = frame.data_mut() {
                    self.meter.bytes += piece.len() as u64;
                    if piece.len() >= SMALL && self.meter.ahead.is_none() && self.body.is_ahead() {
                        self.meter.ahead = Some(self.meter.local.budget.charge(cost::UNREAD));
                    }
                    *piece = self.meter.give(std::mem::take(piece));
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.meter.told(trailers);
                    // Nothing comes after them, and not everybody asks.
                    self.meter.whole = true;
                }
            }
            Some(Err(_)) => {
                if let Some(call) = &mut self.meter.call {
                    call.is_broken = true;
                }
            }
            None => self.meter.whole = true,
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

impl Drop for Metered {
    fn drop(&mut self) {
        // What has all its bytes need not be asked for more.
        self.meter.whole |= self.body.is_end_stream() || self.length == Some(self.meter.bytes);
    }
}

/// The courses that requests of a worker have taken through a snapshot.
#[derive(Debug, Default)]
pub struct Courses(RefCell<HashMap<[usize; 3], Rc<Course>>>);

impl Courses {
    /// The course to these places, each told by where it is in the snapshot: it stays there for as long as the snapshot does.
    pub fn get(&self, places: [usize; 3], make: impl FnOnce() -> Course) -> Rc<Course> {
        let mut courses = self.0.borrow_mut();
        Rc::clone(courses.entry(places).or_insert_with(|| Rc::new(make())))
    }
}
