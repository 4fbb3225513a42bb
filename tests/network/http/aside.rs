//! Filters that ask others, with software that is not ours: a mirror (nginx), an authorization service for Envoy (Go, by Envoy's own
//! protocol files).

use std::fs::read_to_string;

use gateway_tests::lab::{Endpoint, Process, address, eventually, service, slice};
use gateway_tests::web::{Web, in_h2, server};

use super::{curl, file, http};

const MIRROR: u16 = 8081;
const AUTHZ: u16 = 8091;

const ROUTES: &str = "\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mirrored, namespace: default}
spec:
  parentRefs: [{name: edge}]
  hostnames: [mirrored.test]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: mirror, port: 8081}}}]
    backendRefs: [{name: pod-1, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: checked, namespace: default}
spec:
  parentRefs: [{name: edge}]
  hostnames: [checked.test]
  rules:
  - filters:
    - type: ExternalAuth
      externalAuth: {protocol: GRPC, backendRef: {name: authz, port: 8091}, grpc: {allowedHeaders: [X-Token]}, forwardBody: {maxSize: 1024}}
    backendRefs: [{name: pod-1, port: 8080}]
";

#[test]
fn nginx_gets_a_copy_and_who_asks_does_not_notice() {
    let web = Web::new().unwrap();
    publish(&web);
    let nginx = mirror(&web);
    let _agent = web.agent().unwrap();
    for (target, body) in [(http()[0], ""), (http()[1], "the body")] {
        let more = if body.is_empty() { vec![] } else { vec!["--data-binary", body] };
        let answer = curl(&web, target, "http://mirrored.test/a%2Fb?c=d", &more).unwrap();
        assert!(answer.starts_with("pod-1 HTTP/1.1 "), "{answer}");
        let method = if body.is_empty() { "GET" } else { "POST" };
        let copied = format!("{method} mirrored.test /a%2Fb?c=d [{body}]");
        let log = || read_to_string(file(&web, "mirror.log")).unwrap_or_default();
        eventually(&format!("{copied} in the mirror's log"), || log().lines().any(|line| line == copied));
    }
    drop(nginx);
    let answer = curl(&web, http()[0], "http://mirrored.test/", &[]).unwrap();
    assert!(answer.starts_with("pod-1 "), "without the mirror: {answer}");
}

/// nginx in a pod, which logs what it gets with the body.
fn mirror(web: &Web) -> Process {
    let (log, configuration) = (file(web, "mirror.log"), file(web, "mirror.conf"));
    let directory = configuration.parent().unwrap().display().to_string();
    let text = format!(
        "daemon off; master_process off; error_log stderr; pid {directory}/nginx.pid; events {{}}\n\
         http {{ log_format copy escape=none '$request_method $host $request_uri [$request_body]';\n\
         client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n\
         fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n\
         server {{ listen {MIRROR}; listen [::]:{MIRROR}; access_log {}  copy; client_body_in_single_buffer on;\n\
         location / {{ proxy_pass http://127.0.0.1:8082; }} }}\n\
         server {{ listen 127.0.0.1:8082; access_log off; return 200; }} }}\n",
        log.display()
    );
    std::fs::write(&configuration, text).unwrap();
    let pod = &web.world.pods[1];
    let mut command = pod.command("nginx");
    command.arg("-p").arg(&directory).arg("-c").arg(&configuration);
    let nginx = pod.spawn("nginx", command).unwrap();
    eventually("nginx to listen", || pod.run(&format!("curl -sS --fail http://127.0.0.1:{MIRROR}/ready")).is_ok());
    nginx
}

#[test]
fn a_service_made_for_envoy_decides_who_passes() {
    let web = Web::new().unwrap();
    publish(&web);
    let authz = server(&web.world.pods[1], "authz", "authz", AUTHZ).unwrap();
    let _agent = web.agent().unwrap();
    let url = "http://checked.test/headers?a=b";
    for target in http() {
        let refused = curl(&web, target, url, &["-i", "-H", "X-Token: bad"]).unwrap();
        assert!(refused.starts_with("HTTP/1.1 401 ") && refused.ends_with("who are you?"), "{refused}");
        assert!(refused.contains("x-why: no token\r\n"), "{refused}");
        let passed = curl(&web, target, url, &["-i", "-H", "X-Token: good", "-d", "body"]).unwrap();
        assert!(passed.starts_with("HTTP/1.1 200 ") && passed.contains("x-checked: yes\r\n"), "{passed}");
        assert!(passed.contains("X-User: somebody") && !passed.contains("X-Token"), "{passed}");
    }
    let client = address::CLIENT[0];
    let asked = format!("POST checked.test /headers?a=b body=\"body\" from={client}");
    assert!(authz.log().contains(&asked), "no {asked} in {}", authz.log());
    drop(authz);
    let refused = curl(&web, http()[0], url, &["-i", "-H", "X-Token: good"]).unwrap();
    assert!(refused.starts_with("HTTP/1.1 403 "), "without the service: {refused}");
}

fn publish(web: &Web) {
    web.publish_routes(ROUTES).unwrap();
    let endpoints = address::POD_2.map(Endpoint::ready);
    let of = |name, port| [service(name, "TCP", port), slice(name, "TCP", port, &endpoints)];
    let [authz, authz_slice] = of("authz", AUTHZ);
    let documents = [of("mirror", MIRROR).to_vec(), vec![in_h2(&authz), authz_slice]].concat();
    web.manifests.write("aside.yaml", &documents).unwrap();
}
