//! Sessions stay with their endpoint.

use super::*;
use crate::ir::http::Persistence;
use crate::proxy::http::session::{Lifetime, Place};

async fn named(name: &'static str) -> Server {
    server(100, move |_| async move { text(name) }).await
}

fn sticky(place: Place, backends: Vec<Backend>) -> Rule {
    let persistence = Persistence { name: "sid".into(), place, absolute: None, idle: None };
    Rule { persistence: Some(Arc::new(persistence)), ..rule(backends) }
}

/// With what the client was told; answers what it is told now.
async fn ask(gateway: &Gateway, place: Place, session: Option<&str>) -> (String, Option<String>) {
    let mut request = get("/");
    if let Some(session) = session {
        let name = if place == Place::Header { "sid" } else { "cookie" };
        request.headers_mut().insert(name, session.parse().unwrap());
    }
    let response = gateway.send(request).await;
    let told = response.headers().get(if place == Place::Header { "sid" } else { "set-cookie" }).cloned();
    let told = told.map(|told| told.to_str().unwrap().split(';').next().unwrap().to_owned());
    (whole(response).await.1, told)
}

#[test]
fn a_session_stays_with_its_endpoint_while_that_serves() {
    run(async {
        for place in [Place::Header, Place::Cookie(Lifetime::Session)] {
            let (one, two) = (named("one").await, named("two").await);
            let both = || vec![to(cluster(vec![one.endpoint.clone(), two.endpoint.clone()]))];
            let gateway = Gateway::new(sticky(place, both()));
            let (own, told) = ask(&gateway, place, None).await;
            let told = told.expect("a session");
            for _ in 0..6 {
                assert_eq!(ask(&gateway, place, Some(&told)).await, (own.clone(), None));
            }
            let others = [ask(&gateway, place, None).await.0, ask(&gateway, place, None).await.0];
            assert!(others.iter().any(|other| *other != own), "without a session they take turns");
            // Its endpoint goes, then comes back: the client is with the other one by then.
            let (left, other) = if own == "one" { (&two, "two") } else { (&one, "one") };
            gateway.publish(sticky(place, vec![to(cluster(vec![left.endpoint.clone()]))]));
            let (now, moved) = ask(&gateway, place, Some(&told)).await;
            assert_eq!(now, other);
            gateway.publish(sticky(place, both()));
            for _ in 0..4 {
                assert_eq!(ask(&gateway, place, moved.as_deref()).await, (other.to_owned(), None));
            }
        }
    });
}

#[test]
fn a_session_stays_with_its_backend_whatever_the_weights() {
    run(async {
        let (one, two) = (named("one").await, named("two").await);
        let backends = |weight| {
            let first = Backend { weight, ..to(cluster(vec![one.endpoint.clone()])) };
            vec![first, Backend { weight: 1 - weight, ..to(cluster(vec![two.endpoint.clone()])) }]
        };
        let gateway = Gateway::new(sticky(Place::Header, backends(1)));
        let (own, told) = ask(&gateway, Place::Header, None).await;
        assert_eq!(own, "one");
        gateway.publish(sticky(Place::Header, backends(0)));
        assert_eq!(ask(&gateway, Place::Header, told.as_deref()).await, ("one".to_owned(), None));
        assert_eq!(ask(&gateway, Place::Header, None).await.0, "two");
    });
}

#[test]
fn a_session_whose_endpoint_refuses_goes_to_another() {
    run(async {
        let one = named("one").await;
        let gone = nobody().await;
        let gateway = Gateway::new(sticky(Place::Header, vec![to(cluster(vec![gone.clone(), one.endpoint.clone()]))]));
        let key = &gateway.published.load().sessions.clone();
        let persistence = Persistence { name: "sid".into(), place: Place::Header, absolute: None, idle: None };
        let at = SocketAddr::new(gone.address, gone.port);
        let (_, value) = persistence.tell(key, None, at, ("/", false), 1).unwrap();
        let (own, told) = ask(&gateway, Place::Header, Some(value.to_str().unwrap())).await;
        assert_eq!(own, "one");
        assert!(told.is_some());
    });
}
