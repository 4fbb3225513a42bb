//! `GET /metrics`, `/healthz`, `/readyz`.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::stream::{Reader, stream};
use super::{Subject, metrics};

type Answer = Response<Either<Full<Bytes>, Reader>>;

/// Serves until it is dropped.
pub async fn serve<S: Subject + 'static>(listener: TcpListener, subject: Rc<RefCell<S>>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, say: the next one may go better.
                tracing::warn!(%error, "the admin address took no connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let subject = Rc::clone(&subject);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &*subject.borrow());
                async move { Ok::<_, io::Error>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            // Clients that ask for nothing keep nothing.
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(60)).max_buf_size(16 * 1024);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to the admin address ended");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, subject: &impl Subject) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if subject.is_ready() => text(StatusCode::OK, "ready\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "the objects are not in the maps yet\n"),
        "/metrics" => {
            let snapshot = subject.snapshot();
            let body = stream(move |writer| metrics::write(snapshot, writer));
            let mut answer = Response::new(Either::Right(body));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
            answer
        }
        _ => text(StatusCode::NOT_FOUND, "there is /metrics, /healthz and /readyz\n"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Either::Left(Full::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
