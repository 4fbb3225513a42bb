//! Backends that remember what they were asked, and clients that write bytes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::ir::http::{Application, Backend, Rule, Target};
use crate::panics;
use crate::proxy::http::body::Body;
use crate::proxy::http::filters::Filter;
use crate::proxy::http::server::{Executor, Security};
use crate::proxy::http::tests::{client, rule, speaking};
use crate::proxy::http::worker::Local;
use crate::proxy::tests::ir::endpoint;

/// Nothing here takes that long.
const LONG: Duration = Duration::from_secs(5);

pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    panics::none_in(|| LocalSet::new().block_on(&runtime, async { timeout(LONG * 2, test).await.expect("an end") }));
}

/// A request as a server has got it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub head: Rc<http::request::Parts>,
    /// `None`: it broke off.
    pub body: Option<Bytes>,
}

impl Asked {
    /// All values of a header, with `|` between them.
    pub fn header(&self, name: &str) -> String {
        header(&self.head.headers, name)
    }

    pub fn path(&self) -> &str {
        self.head.uri.path_and_query().map_or("", |path| path.as_str())
    }
}

pub fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join("|")
}

/// HTTP/1.1 and HTTP/2, on as many connections as somebody wants.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    asked: Rc<RefCell<Vec<Asked>>>,
}

impl Server {
    pub async fn answering(answer: impl Fn(&Asked) -> Response<Body> + 'static) -> Server {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server { address: socket.local_addr().unwrap().to_string(), asked: Rc::default() };
        let (asked, answer) = (Rc::clone(&server.asked), Rc::new(answer));
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let (asked, answer) = (Rc::clone(&asked), Rc::clone(&answer));
                tokio::task::spawn_local(async move {
                    let service = service_fn(|request: http::Request<Incoming>| {
                        let (asked, answer) = (Rc::clone(&asked), Rc::clone(&answer));
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.ok().map(|body| body.to_bytes());
                            let request = Asked { head: Rc::new(head), body };
                            asked.borrow_mut().push(request.clone());
                            Ok::<_, Infallible>(answer(&request))
                        }
                    });
                    // A client that goes is none of its business.
                    let _ended = auto::Builder::new(Executor).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        server
    }

    /// Says 200 and `hello`.
    pub async fn new() -> Server {
        Server::answering(|_| Response::new(Body::of("hello".into()))).await
    }

    /// Takes connections and never says a word.
    pub async fn mute() -> Server {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        tokio::task::spawn_local(async move {
            let mut held = Vec::new();
            loop {
                held.push(socket.accept().await.unwrap());
            }
        });
        Server { address, asked: Rc::default() }
    }

    /// Nobody is there.
    pub async fn gone() -> Server {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        Server { address, asked: Rc::default() }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.borrow().clone()
    }

    /// The first so many requests, when they are there.
    pub async fn asked_for(&self, count: usize) -> Vec<Asked> {
        let there = async {
            while self.asked.borrow().len() < count {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LONG, there).await.expect("requests");
        self.asked()
    }

    pub fn backend(&self) -> Backend {
        speaking(Application::Http, vec![endpoint(&self.address)])
    }

    pub fn target(&self, application: Application) -> Target {
        speaking(application, vec![endpoint(&self.address)]).target
    }
}

/// A rule for everything, with filters.
pub fn filtered(filters: Vec<Filter>, backends: Vec<Backend>) -> Rule {
    Rule { filters, ..rule("", backends) }
}

/// What comes for a request, to the end.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> String {
        header(&self.headers, name)
    }
}

/// `request`: the first line without its version. `rest`: header lines, each with its end, and after an empty one the body.
pub async fn ask(local: &Rc<Local>, request: &str, rest: &str) -> Answer {
    let rest = if rest.contains("\r\n\r\n") { rest.to_owned() } else { format!("{rest}\r\n") };
    send(local, &format!("{request} HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n{rest}")).await
}

/// Byte for byte; the connection has to end.
pub async fn send(local: &Rc<Local>, request: &str) -> Answer {
    let mut stream = client(local, Security::Clear).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    timeout(LONG, stream.read_to_end(&mut got)).await.expect("an answer").unwrap();
    let got = String::from_utf8(got).unwrap();
    let (head, body) = got.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {got:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    });
    let mut all = HeaderMap::new();
    all.extend(headers);
    Answer { status, headers: all, body: body.to_owned() }
}
