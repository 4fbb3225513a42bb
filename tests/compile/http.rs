//! Listeners and routes of HTTP, as text for people to review.

use std::fmt::Write;

use gateway_agent::ir::Ir;
use gateway_agent::ir::http::{
    Application, Backend, BackendTls, Balance, Clients, Created, Filter, HeaderMatch, Identity, Listener, Match,
    PathMatch, Persistence, Roots, Rule, Security, Settings, Target, Text, Unverified,
};
use gateway_agent::proxy::http::filters::external_auth::AuthProtocol;
use gateway_agent::proxy::http::filters::rewrite::PathChange;
use gateway_agent::proxy::http::session::{Lifetime, Place};

use crate::render::endpoint_text;

pub fn listener_text(text: &mut String, ir: &Ir, listener: &Listener) {
    if let Security::Https { certificates, clients } = &listener.security {
        for certificate in certificates {
            _ = writeln!(text, "  certificate of {}: {} in the chain", certificate.secret, certificate.chain.len());
        }
        if certificates.is_empty() {
            *text += "  no certificate\n";
        }
        match clients {
            Clients::Anonymous => {}
            Clients::Refused => *text += "  clients refused\n",
            Clients::Checked { authorities, unverified } => {
                let unverified = if *unverified == Unverified::Refused { "refused" } else { "allowed" };
                let (origin, count) = (&authorities.origin, authorities.certificates.len());
                _ = writeln!(text, "  clients checked by {origin} ({count}), others {unverified}");
            }
        }
    }
    if *listener.settings != Settings::default() {
        _ = writeln!(text, "  {:?}", listener.settings);
    }
    if listener.routes.is_empty() {
        *text += "  no route\n";
    }
    for attachment in listener.routes.iter() {
        let hosts: Vec<String> = attachment.hosts.iter().map(ToString::to_string).collect();
        let created = match attachment.route.created {
            Created::At(second) => format!(" of {second}"),
            Created::Unknown => String::new(),
        };
        _ = writeln!(text, "  {}{created} for {}", attachment.route.name, hosts.join(", "));
        attachment.route.rules.iter().for_each(|rule| rule_text(text, ir, rule));
    }
}

fn rule_text(text: &mut String, ir: &Ir, rule: &Rule) {
    _ = writeln!(text, "    rule {}", rule.name);
    for matching in &*rule.matches {
        _ = writeln!(text, "      if {}", match_text(matching));
    }
    filters_text(text, ir, "      ", &rule.filters);
    if let Some(time) = rule.timeouts.request {
        _ = writeln!(text, "      in {time:?}");
    }
    if let Some(time) = rule.timeouts.backend_request {
        _ = writeln!(text, "      each attempt in {time:?}");
    }
    if let Some(retry) = &rule.retry {
        let codes: Vec<String> = retry.codes.iter().map(|code| code.as_u16().to_string()).collect();
        _ = writeln!(text, "      again {} times after {:?} on [{}]", retry.attempts, retry.backoff, codes.join(", "));
    }
    if let Some(persistence) = &rule.persistence {
        _ = writeln!(text, "      {}", persistence_text(persistence));
    }
    for Backend { weight, filters, target } in &rule.backends {
        _ = writeln!(text, "      {weight:>5} {}", target_text(ir, target));
        filters_text(text, ir, "              ", filters);
    }
}

fn match_text(matching: &Match) -> String {
    let mut all = vec![match &matching.path {
        PathMatch::Exact(path) => format!("path is {path}"),
        PathMatch::Prefix(prefix) => format!("path begins with {prefix}/"),
        PathMatch::Regex(pattern) => format!("path like {}", pattern.source()),
        PathMatch::Grpc(call) => {
            let part = |part: &Option<Text>| part.as_ref().map_or_else(|| "any".to_owned(), value_text);
            format!("service {} method {}", part(&call.service), part(&call.method))
        }
    }];
    all.extend(matching.method.as_ref().map(ToString::to_string));
    all.extend(
        matching.headers.iter().map(|HeaderMatch { name, value }| format!("header {name} {}", value_text(value))),
    );
    all.extend(matching.query.iter().map(|query| format!("query {} {}", query.name, value_text(&query.value))));
    all.join(", ")
}

fn value_text(value: &Text) -> String {
    match value {
        Text::Exact(text) => format!("is {text}"),
        Text::Regex(pattern) => format!("like {}", pattern.source()),
    }
}

fn filters_text(text: &mut String, ir: &Ir, indent: &str, filters: &[Filter]) {
    for filter in filters {
        _ = writeln!(text, "{indent}{}", filter_text(ir, filter));
    }
}

fn filter_text(ir: &Ir, filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(changes) => format!("request headers: {:?}", changes.0),
        Filter::ResponseHeaders(changes) => format!("response headers: {:?}", changes.0),
        Filter::Redirect(redirect) => {
            let scheme = redirect.scheme.map(|scheme| format!(" scheme {}", scheme.as_str())).unwrap_or_default();
            let host = redirect.host.as_ref().map(|host| format!(" host {host}")).unwrap_or_default();
            let port = redirect.port.map(|port| format!(" port {port}")).unwrap_or_default();
            format!("redirect {}:{scheme}{host}{port}{}", redirect.status.as_u16(), path_text(redirect.path.as_ref()))
        }
        Filter::Rewrite(rewrite) => {
            let host = rewrite.host.as_ref().map(|host| format!(" host {host:?}")).unwrap_or_default();
            format!("rewrite:{host}{}", path_text(rewrite.path.as_ref()))
        }
        Filter::Mirror(mirror) => {
            format!("mirror {} of {}: {}", mirror.share.of, mirror.share.out_of, target_text(ir, &mirror.target))
        }
        Filter::ExternalAuth(auth) => {
            let how = match &auth.protocol {
                AuthProtocol::Grpc { request_headers } => format!("gRPC {request_headers:?}"),
                AuthProtocol::Http { path, request_headers, response_headers } => {
                    format!("HTTP \"{path}\" {request_headers:?} {response_headers:?}")
                }
            };
            let open = if auth.fails_open { ", else open" } else { "" };
            format!(
                "auth by {how} in {:?}{open}, {} of the body: {}",
                auth.timeout,
                auth.body,
                target_text(ir, &auth.target)
            )
        }
        Filter::Cors(cors) => format!("{cors:?}"),
        Filter::Unknown(_) => "unknown filter".to_owned(),
    }
}

fn path_text(path: Option<&PathChange>) -> String {
    match path {
        None => String::new(),
        Some(PathChange::Full(path)) => format!(" path {path}"),
        Some(PathChange::Prefix(prefix)) => format!(" prefix {prefix}/"),
    }
}

fn persistence_text(persistence: &Persistence) -> String {
    let Persistence { name, place, absolute, idle } = persistence;
    let place = match place {
        Place::Cookie(Lifetime::Session) => "session cookie",
        Place::Cookie(Lifetime::Permanent) => "permanent cookie",
        Place::Header => "header",
    };
    format!("sessions by {place} {name}, {absolute:?} in all, {idle:?} idle")
}

fn target_text(ir: &Ir, target: &Target) -> String {
    let Target::Cluster(cluster) = target else { return "500".to_owned() };
    let application = match cluster.application {
        Application::Http => "",
        Application::H2c => " h2c",
        Application::WebSocket => " ws",
    };
    let tls = cluster.tls.as_deref().map(backend_tls_text);
    let balance = if cluster.balance == Balance::RoundRobin { " in turn" } else { "" };
    let endpoints = ir.endpoints.get(&cluster.service).expect("endpoints of what is sent to");
    let endpoints: Vec<String> = endpoints.iter().map(endpoint_text).collect();
    format!("{}{application}{balance}{}: [{}]", cluster.service, tls.unwrap_or_default(), endpoints.join(", "))
}

pub fn backend_tls_text(tls: &BackendTls) -> String {
    let roots = match &tls.roots {
        Roots::System => "the system".to_owned(),
        Roots::These(authorities) => format!("{} ({})", authorities.origin, authorities.certificates.len()),
    };
    let identities = tls.identities.iter().map(|identity| match identity {
        Identity::Dns(name) => format!(" as {name}"),
        Identity::Uri(uri) => format!(" as {uri}"),
    });
    let identities: String = identities.collect();
    let client = tls.client.as_ref().map(|client| format!(" with {}", client.secret)).unwrap_or_default();
    format!(" by TLS to {}{identities} by {roots}{client}", tls.server_name)
}
