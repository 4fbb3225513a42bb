//! What would happen to a request of HTTP: the same steps as a worker takes, on the snapshot that it would take, told.

use std::net::SocketAddr;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, Uri};
use serde::{Deserialize, Serialize};

use crate::ir::http::{Match, PathMatch, Route, Rule, Target};
use crate::proxy::http::path;
use crate::proxy::http::snapshot::{Listener, Snapshot};
use crate::proxy::http::table::{Found, Hosts, Rank, canonical};

/// A request that somebody thinks of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpQuestion {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    /// `None`: every address with a listener at the port of the URL.
    pub to: Option<SocketAddr>,
}

/// The story of a request to one address and port.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpTrace {
    pub gateway: SocketAddr,
    pub host: String,
    /// As rules see it.
    pub path: String,
    /// The most specific for the host. `None`: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Those that are looked at, in that order: the last is taken, if one is.
    pub rules: Vec<Candidate>,
    pub outcome: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    pub route: String,
    pub rule: String,
    /// It is the one.
    pub taken: bool,
    /// Of each of its matches that is looked at.
    pub why: Vec<String>,
}

/// `Err`: what is wrong with the question.
pub fn trace(snapshot: &Snapshot, question: &HttpQuestion) -> Result<Vec<HttpTrace>, String> {
    let asked = Asked::read(question)?;
    let ports = snapshot.gateways().filter(|gateway| match question.to {
        Some(to) => *gateway == to,
        None => gateway.port() == asked.port,
    });
    let mut ports: Vec<SocketAddr> = ports.collect();
    ports.sort_unstable();
    Ok(ports.into_iter().map(|gateway| asked.at(snapshot, gateway)).collect())
}

struct Asked {
    host: String,
    port: u16,
    secure: bool,
    path: String,
    parts: Parts,
}

impl Asked {
    fn read(question: &HttpQuestion) -> Result<Asked, String> {
        let url: Uri = question.url.parse().map_err(|error| format!("{} is no URL: {error}", question.url))?;
        let secure = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{} does not begin with http:// or https://", question.url)),
        };
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = url.authority().map(Authority::as_str).and_then(canonical);
        let host = host.ok_or_else(|| format!("{} has no host", question.url))?.into_owned();
        let path =
            path::normalize(url.path()).ok_or("that path is refused with 400: it has two readings")?.into_owned();
        let mut request = http::Request::new(());
        *request.method_mut() =
            question.method.parse::<Method>().map_err(|error| format!("{}: {error}", question.method))?;
        let whole = url.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        *request.uri_mut() = Uri::from(PathAndQuery::try_from(whole).map_err(|error| error.to_string())?);
        for (name, value) in &question.headers {
            let wrong = || format!("{name}: {value} is no header");
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            request.headers_mut().append(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        Ok(Asked { host, port, secure, path, parts: request.into_parts().0 })
    }

    fn at(&self, snapshot: &Snapshot, gateway: SocketAddr) -> HttpTrace {
        let listener = snapshot.port(gateway).and_then(|port| port.listener(&self.host));
        let mut trace = HttpTrace {
            gateway,
            host: self.host.clone(),
            path: self.path.clone(),
            listener: None,
            rules: Vec::new(),
            outcome: "404: no listener there has the host".to_owned(),
        };
        let Some(listener) = listener else { return trace };
        let protocol = listener.ir.security.as_str();
        trace.listener = Some(format!("{} ({protocol}, {})", listener.name, listener.ir.hostname));
        if self.secure != (protocol == "HTTPS") {
            trace.outcome = format!("no answer: the listener speaks {protocol}");
            return trace;
        }
        let found = listener.table.find(&self.host, &self.path, &self.parts);
        trace.rules = self.candidates(listener, found);
        trace.outcome = match found {
            None if trace.rules.is_empty() => "404: no rule is for the host and path".to_owned(),
            None => "404: no rule takes it".to_owned(),
            Some(found) => outcome(snapshot, found.rule),
        };
        trace
    }

    /// The matches that are looked at: those for the path, by rank, up to the one that is taken. Only routes of the most specific host
    /// that some route has are asked.
    fn candidates(&self, listener: &Listener, found: Option<Found<'_>>) -> Vec<Candidate> {
        let mut routes = Hosts::<Vec<&Route>>::default();
        for attachment in listener.ir.routes.iter() {
            for host in attachment.hosts.iter() {
                let with = |routes: Option<Vec<_>>| {
                    let mut routes = routes.unwrap_or_default();
                    routes.push(&*attachment.route);
                    Some(routes)
                };
                routes.change(host, with);
            }
        }
        let mut matches = Vec::new();
        for route in routes.of(&self.host).next().into_iter().flatten() {
            for (at, rule) in route.rules.iter().enumerate() {
                let of_path = rule.matches.iter().enumerate().filter(|(_, one)| one.path.holds(&self.path));
                matches.extend(of_path.map(|(nth, one)| (Rank::of(route, at, nth), *route, rule, one)));
            }
        }
        matches.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut looked_at: Vec<Candidate> = Vec::new();
        for (_, route, rule, one) in matches {
            let holds = one.holds(&self.path, &self.parts);
            let candidate = Candidate {
                route: route.name.to_string(),
                rule: rule.name.to_string(),
                taken: holds && found.is_some_and(|found| std::ptr::eq(found.rule, rule)),
                why: vec![self.why(one)],
            };
            match looked_at.last_mut().filter(|last| last.route == candidate.route && last.rule == candidate.rule) {
                Some(last) => {
                    last.taken |= candidate.taken;
                    last.why.extend(candidate.why);
                }
                None => looked_at.push(candidate),
            }
            if holds {
                break;
            }
        }
        looked_at
    }

    /// Whether a match holds, or what of it does not.
    fn why(&self, one: &Match) -> String {
        let mut not = Vec::new();
        if !one.path.holds(&self.path) {
            not.push(format!("the path is not {}", path_of(&one.path)));
        }
        let alone = || Match { path: one.path.clone(), method: None, headers: Vec::new(), query: Vec::new() };
        let fails = |one: Match| !one.holds_beside_path(&self.parts);
        if let Some(method) = &one.method
            && fails(Match { method: Some(method.clone()), ..alone() })
        {
            not.push(format!("the method is not {method}"));
        }
        for header in &one.headers {
            if fails(Match { headers: vec![header.clone()], ..alone() }) {
                not.push(format!("header {} is not {}", header.name, header.value.as_str()));
            }
        }
        for query in &one.query {
            if fails(Match { query: vec![query.clone()], ..alone() }) {
                not.push(format!("query parameter {} is not {}", query.name, query.value.as_str()));
            }
        }
        if not.is_empty() { format!("matches: {}", path_of(&one.path)) } else { not.join(", ") }
    }
}

fn path_of(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(path) => format!("exactly {path}"),
        PathMatch::Prefix(prefix) if prefix.is_empty() => "below /".to_owned(),
        PathMatch::Prefix(prefix) => format!("below {prefix}"),
        PathMatch::Regex(pattern) => format!("like {}", pattern.source()),
        PathMatch::Grpc(_) => "a call that it takes".to_owned(),
    }
}

/// Filters may answer before.
fn outcome(snapshot: &Snapshot, rule: &Rule) -> String {
    let weights: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if weights == 0 {
        return if rule.filters.is_empty() { "500: the rule has no backend" } else { "its filters answer, or 500" }
            .to_owned();
    }
    let share = |weight: u32| f64::from(weight) / weights as f64 * 100.0;
    let backends = rule.backends.iter().filter(|backend| backend.weight > 0).map(|backend| match &backend.target {
        Target::Invalid => format!("{:.1}% 500, an invalid backendRef", share(backend.weight)),
        Target::Cluster(cluster) if snapshot.endpoints(cluster).is_empty() => {
            format!("{:.1}% 503, {} has no endpoint", share(backend.weight), cluster.service)
        }
        Target::Cluster(cluster) => format!("{:.1}% {}", share(backend.weight), cluster.service),
    });
    let backends = backends.collect::<Vec<_>>().join("; ");
    match rule.filters.len() {
        0 => backends,
        1 => format!("{backends} (after a filter, which may answer)"),
        n => format!("{backends} (after {n} filters, which may answer)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::http::{HeaderMatch, Text};
    use crate::proxy::http::tests::{rule, serving};

    fn question(method: &str, url: &str) -> HttpQuestion {
        HttpQuestion { method: method.to_owned(), url: url.to_owned(), headers: Vec::new(), to: None }
    }

    #[test]
    fn the_rule_is_told_and_why_others_are_not_it() {
        let mut put = rule("/a", Vec::new());
        put.matches = put.matches.iter().map(|one| Match { method: Some(Method::PUT), ..one.clone() }).collect();
        let mut header = rule("/a/b", Vec::new());
        header.name = "with a header".into();
        let x = HeaderMatch { name: HeaderName::from_static("x-a"), value: Text::Exact("1".into()) };
        header.matches = header.matches.iter().map(|one| Match { headers: vec![x.clone()], ..one.clone() }).collect();
        let local = serving(vec![put, rule("/a/b", Vec::new()), rule("/c", Vec::new()), header]);
        let at = |method, url| trace(&local.snapshot(), &question(method, url)).unwrap();
        let told = &at("GET", "http://example.com/a/./b/c?q=1")[0];
        assert_eq!((&*told.path, told.listener.as_deref()), ("/a/b/c", Some("default/gw/http (HTTP, example.com)")));
        let looked_at: Vec<_> = told.rules.iter().map(|rule| (&*rule.rule, rule.taken, &*rule.why[0])).collect();
        let wanted = [("with a header", false, "header x-a is not 1"), ("/a/b", true, "matches: below /a/b")];
        assert_eq!(looked_at, wanted, "not those behind it, and of other paths");
        assert_eq!(at("GET", "http://example.com/a")[0].rules[0].why, ["the method is not PUT"]);
        assert_eq!(at("GET", "http://example.com/a")[0].outcome, "404: no rule takes it");
        assert_eq!(told.outcome, "500: the rule has no backend");
        assert_eq!(at("GET", "http://example.com/x")[0].outcome, "404: no rule is for the host and path");
        assert_eq!(at("GET", "http://example.net/a")[0].outcome, "404: no listener there has the host");
        assert!(at("GET", "https://example.com/a").is_empty());
        for wrong in ["example.com", "ftp://example.com/", "http://example.com/%5c"] {
            assert!(trace(&local.snapshot(), &question("GET", wrong)).is_err(), "{wrong}");
        }
    }
}
