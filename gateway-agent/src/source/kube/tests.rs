//! What a real API server does seldom, by one that says what a test wants.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{iter, pending, poll_fn};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::index::{Change, Object};

/// What there is to say to a request.
enum Answer {
    Refusal(u16),
    List {
        version: u32,
        next: &'static str,
        items: Vec<Value>,
    },
    /// Lines; then it ends, or does not.
    Watch {
        lines: Vec<Value>,
        ends: bool,
    },
    /// Lines as they come.
    Live(mpsc::UnboundedReceiver<Value>),
}

use Answer::{List, Live, Refusal, Watch};

/// Answers by path (`list /api/v1/services`), each once. Without one a list is empty, or for kinds of a CRD refused, and a watch is silent.
#[derive(Default)]
struct Fake {
    answers: RefCell<HashMap<String, VecDeque<Answer>>>,
    /// Queries of requests, by path.
    asked: RefCell<HashMap<String, Vec<String>>>,
}

impl Fake {
    async fn start() -> (Rc<Fake>, Api) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Rc::new(Fake::default());
        let serving = Rc::clone(&fake);
        spawn_local(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let fake = Rc::clone(&serving);
                let answer = service_fn(move |request| {
                    let answer = fake.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                spawn_local(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), answer),
                );
            }
        });
        let config = ::kube::Config::new(format!("http://{address}").parse().unwrap());
        (fake, Api::by(config).unwrap())
    }

    fn say(&self, to: &str, answer: Answer) {
        self.answers.borrow_mut().entry(to.to_owned()).or_default().push_back(answer);
    }

    fn asked(&self, of: &str) -> Vec<String> {
        self.asked.borrow().get(of).cloned().unwrap_or_default()
    }

    fn answer(
        &self,
        request: &Request<Incoming>,
    ) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<>> {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.contains("watch=1");
        let key = format!("{} {}", if is_watch { "watch" } else { "list" }, request.uri().path());
        self.asked.borrow_mut().entry(key.clone()).or_default().push(query.to_owned());
        let answer =
            self.answers.borrow_mut().get_mut(&key).and_then(VecDeque::pop_front).unwrap_or_else(|| match is_watch {
                true => Watch { lines: Vec::new(), ends: false },
                false if key.contains("gateway.networking.k8s.io") => Refusal(404),
                false => List { version: 1, next: "", items: Vec::new() },
            });
        let (code, lines) = match answer {
            Refusal(code) => (code, iter([json!({ "message": "no" })]).boxed()),
            List { version, next, items } => {
                let metadata = json!({ "resourceVersion": version.to_string(), "continue": next });
                (200, iter([json!({ "metadata": metadata, "items": items })]).boxed())
            }
            Watch { lines, ends: true } => (200, iter(lines).boxed()),
            Watch { lines, ends: false } => (200, iter(lines).chain(pending()).boxed()),
            Live(mut lines) => (200, poll_fn(move |context| lines.poll_recv(context)).boxed()),
        };
        let frames = lines.map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
        Response::builder().status(code).body(StreamBody::new(frames)).unwrap()
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { timeout(Duration::from_secs(30), test).await.expect("it takes too long") };
    LocalSet::new().block_on(&runtime, test);
}

fn metadata(name: &str, version: u32) -> Value {
    json!({ "name": name, "namespace": "a", "resourceVersion": version.to_string() })
}

fn service(name: &str, version: u32, port: u16) -> Value {
    json!({ "metadata": metadata(name, version), "spec": { "ports": [{ "port": port }] } })
}

fn event(kind: &str, object: Value) -> Value {
    json!({ "type": kind, "object": object })
}

fn definition(plural: &str) -> Value {
    json!({ "metadata": { "name": format!("{plural}.gateway.networking.k8s.io"), "annotations": {
        "gateway.networking.k8s.io/bundle-version": "v1.6.3",
    } } })
}

/// `+name` and `-name`, without what is said of CRDs.
fn changes(batch: &Batch) -> Vec<String> {
    let change = |change: &Change| match change {
        Change::Set(Object::Service(service)) => Some(format!("+{}:{}", service.meta.name.name, service.ports[0].port)),
        Change::Set(object) => Some(format!("+{}", object.meta().name.name)),
        Change::Remove(id) => Some(format!("-{}", id.name.name)),
        Change::Bundles(_) => None,
    };
    batch.changes.iter().filter_map(change).collect()
}

#[test]
fn a_watch_goes_on_where_it_ended_and_lists_again_when_it_must() {
    run(async {
        let (fake, api) = Fake::start().await;
        let (list, watch) = ("list /api/v1/services", "watch /api/v1/services");
        fake.say(list, List { version: 5, next: "more", items: vec![service("a", 1, 80)] });
        fake.say(list, List { version: 5, next: "", items: vec![service("b", 2, 80)] });
        let bookmark = event("BOOKMARK", json!({ "metadata": { "resourceVersion": "9" } }));
        fake.say(watch, Watch { lines: vec![event("MODIFIED", service("b", 7, 81)), bookmark], ends: true });
        fake.say(
            watch,
            Watch { lines: vec![event("ERROR", json!({ "code": 410, "message": "too old" }))], ends: true },
        );
        fake.say(list, List { version: 20, next: "", items: vec![service("b", 7, 81), service("c", 19, 80)] });
        fake.say(watch, Watch { lines: vec![event("DELETED", service("c", 21, 80))], ends: false });

        let mut batches = start(api, Rc::default(), None).batches;
        let mut said = Vec::new();
        while said.last().is_none_or(|last| last != "-c") {
            said.extend(changes(&batches.recv().await.unwrap()));
        }
        assert_eq!(said, ["+a:80", "+b:80", "+b:81", "+c:80", "-a", "-c"]);
        assert!(fake.asked(list)[1].contains("continue=more"), "{:?}", fake.asked(list));
        let versions: Vec<bool> = ["5", "9", "20"]
            .iter()
            .zip(fake.asked(watch))
            .map(|(version, query)| query.ends_with(&format!("resourceVersion={version}")))
            .collect();
        assert_eq!(versions, [true; 3], "{:?}", fake.asked(watch));
    });
}

#[test]
fn an_api_server_that_starts_is_waited_for() {
    run(async {
        let (fake, api) = Fake::start().await;
        let crds = "list /apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (list, classes) = ("list /api/v1/services", "/apis/gateway.networking.k8s.io/v1/gatewayclasses");
        // It does not know who we are, what is in it, or its own CRDs.
        fake.say(list, Refusal(403));
        fake.say(list, Refusal(429));
        fake.say(list, List { version: 1, next: "", items: vec![service("a", 1, 80)] });
        fake.say(crds, Refusal(503));
        fake.say(crds, List { version: 1, next: "", items: vec![definition("gatewayclasses")] });
        let class =
            json!({ "metadata": { "name": "class" }, "spec": { "controllerName": "sluice.dev/gateway-controller" } });
        for _ in 0..5 {
            fake.say(&format!("list {classes}"), Refusal(404));
        }
        fake.say(&format!("list {classes}"), List { version: 1, next: "", items: vec![class] });

        let Following { cluster, mut batches, .. } = start(api, Rc::default(), None);
        let mut first = changes(&batches.recv().await.unwrap());
        first.sort();
        assert_eq!(first, ["+a:80", "+class"]);
        assert_eq!(cluster.served(Kind::GatewayClass), Some("v1"));
        assert_eq!(cluster.served(Kind::HTTPRoute), None);
    });
}

#[test]
fn what_a_gateway_refers_to_comes_with_it_and_goes_with_it() {
    run(async {
        let (fake, api) = Fake::start().await;
        let root = "/apis/gateway.networking.k8s.io/v1";
        let config = json!({ "metadata": { "name": "sluiceconfigs.sluice.dev" } });
        let defined = vec![definition("gatewayclasses"), definition("gateways"), config];
        fake.say(
            "list /apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            List { version: 1, next: "", items: defined },
        );
        let class = |name: &str, controller: &str| json!({ "metadata": { "name": name }, "spec": { "controllerName": controller } });
        let classes = vec![class("ours", crate::compile::CONTROLLER), class("theirs", "example.com/other")];
        fake.say(&format!("list {root}/gatewayclasses"), List { version: 1, next: "", items: classes });
        let gateway = |name: &str, class: &str, secret: &str| {
            json!({
                "metadata": metadata(name, 1),
                "spec": {
                    "gatewayClassName": class,
                    "infrastructure": { "parametersRef": { "group": "sluice.dev", "kind": "SluiceConfig", "name": "own" } },
                    "listeners": [{
                        "name": "https", "port": 443, "protocol": "HTTPS", "tls": { "certificateRefs": [{ "name": secret }] },
                    }],
                },
            })
        };
        fake.say(
            &format!("list {root}/gateways"),
            List { version: 1, next: "", items: vec![gateway("other", "theirs", "foreign")] },
        );
        let (gateways, lines) = mpsc::unbounded_channel();
        fake.say(&format!("watch {root}/gateways"), Live(lines));
        let secret = json!({ "metadata": metadata("certificate", 1), "type": "Opaque" });
        fake.say("list /api/v1/namespaces/a/secrets", List { version: 1, next: "", items: vec![secret] });

        let configs = "list /apis/sluice.dev/v1alpha1/namespaces/a/sluiceconfigs";
        fake.say(configs, List { version: 1, next: "", items: vec![json!({ "metadata": metadata("own", 1) })] });

        let mut batches = start(api, Rc::default(), None).batches;
        assert_eq!(changes(&batches.recv().await.unwrap()), ["+ours", "+theirs", "+other"]);
        gateways.send(event("ADDED", gateway("edge", "ours", "certificate"))).unwrap();
        let mut came = changes(&batches.recv().await.unwrap());
        came.sort();
        assert_eq!(came, ["+certificate", "+edge", "+own"]);
        gateways.send(event("DELETED", gateway("edge", "ours", "certificate"))).unwrap();
        assert_eq!(changes(&batches.recv().await.unwrap()), ["-edge", "-own", "-certificate"]);
        // Nobody else's, and no more than that one.
        for (of, name) in [("list /api/v1/namespaces/a/secrets", "certificate"), (configs, "own")] {
            let asked = fake.asked(of);
            let selector = format!("fieldSelector=metadata.name%3D{name}");
            assert!(asked.len() == 1 && asked[0].contains(&selector), "{asked:?}");
        }
    });
}

#[test]
fn an_agent_that_starts_has_what_the_one_before_has_seen() {
    let path = std::env::temp_dir().join(format!("sluice-objects-{}.jsonl", std::process::id()));
    let list = "list /api/v1/services";
    run(async {
        let (fake, api) = Fake::start().await;
        fake.say(list, List { version: 5, next: "", items: ["a", "b", "c"].map(|name| service(name, 1, 80)).into() });
        let changed = vec![event("MODIFIED", service("b", 7, 81)), event("DELETED", service("c", 8, 80))];
        fake.say("watch /api/v1/services", Watch { lines: changed, ends: false });
        let mut first = start(api.clone(), Rc::default(), Some(&path));
        assert!(first.kept.is_none());
        let mut said = Vec::new();
        while said.last().is_none_or(|last| last != "-c") {
            said.extend(changes(&first.batches.recv().await.unwrap()));
        }
        drop(first);

        // It is away, then `b` has gone and `a` is another.
        let away = (0..3).map(|_| Refusal(503));
        away.for_each(|answer| fake.say(list, answer));
        fake.say(list, List { version: 20, next: "", items: vec![service("a", 9, 82), service("d", 9, 80)] });
        let mut second = start(api.clone(), Rc::default(), Some(&path));
        assert_eq!(changes(second.kept.as_ref().unwrap()), ["+a:80", "+b:81"]);
        assert_eq!(changes(&second.batches.recv().await.unwrap()), ["+a:82", "+d:80", "-b"]);
        drop(second);

        // Nothing has changed: that is said.
        fake.say(list, List { version: 20, next: "", items: vec![service("a", 9, 82), service("d", 9, 80)] });
        let mut third = start(api, Rc::default(), Some(&path));
        assert_eq!(changes(third.kept.as_ref().unwrap()), ["+a:82", "+d:80"]);
        assert!(changes(&third.batches.recv().await.unwrap()).is_empty());
    });
    std::fs::remove_file(&path).unwrap();
}
