//! `sluice trace`.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use serde_json::Value;

use super::maps::cell;
use super::output::{self, Output};
use super::{AgentSocket, client, trace_http};
use crate::admin::{HttpQuestion, Query, Question};

#[derive(clap::Args)]
pub struct Options {
    /// The server name that the client asks for; without it the client names none (with --live: any).
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The client; with its port the backend that it would get is told.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = client_address)]
    from: Option<(IpAddr, Option<u16>)>,
    /// The Gateway [default: every address and port with a TLS listener].
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = gateway_address)]
    to: Option<SocketAddr>,
    /// A request of HTTP in place of a TLS connection.
    #[arg(long, num_args = 2, value_names = ["METHOD", "URL"], conflicts_with_all = ["sni", "from", "live"])]
    http: Option<Vec<String>>,
    /// A header of that request; may be repeated.
    #[arg(short = 'H', long, value_name = "NAME: VALUE", requires = "http", value_parser = trace_http::header)]
    header: Vec<(String, String)>,
    /// Tell the story of each new connection that comes, until interrupted.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    agent: AgentSocket,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

fn client_address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok((socket.ip(), Some(socket.port())));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map(|address| (address, None)).map_err(|_| "an IP address, with or without `:PORT`".to_owned())
}

fn gateway_address(text: &str) -> Result<SocketAddr, String> {
    let example = "an IP address with a port, as 198.18.0.1:443 or [2001:db8::1]:443";
    text.parse().map_err(|_| example.to_owned())
}

pub fn trace(options: &Options) -> anyhow::Result<ExitCode> {
    if options.live {
        return live(options);
    }
    if let Some([method, url]) = options.http.as_deref() {
        let (method, url, headers) = (method.clone(), url.clone(), options.header.clone());
        let question = HttpQuestion { method, url, headers, to: options.to };
        let answer = client::ask(&options.agent.socket, Query::TraceHttp(question))?;
        return output::print(&match output::structured(&answer, options.output)? {
            Some(text) => text,
            None => trace_http::stories(&answer),
        });
    }
    if let (Some((from, _)), Some(to)) = (options.from, options.to)
        && from.is_ipv4() != to.is_ipv4()
    {
        anyhow::bail!("--from {from} and --to {to} are not of one IP family");
    }
    let question = Question {
        name: options.sni.clone().unwrap_or_default(),
        from: options.from.map(|(address, _)| address),
        from_port: options.from.and_then(|(_, port)| port),
        to: options.to,
    };
    let answer = client::ask(&options.agent.socket, Query::Trace(question))?;
    output::print(&match output::structured(&answer, options.output)? {
        Some(text) => text,
        None => stories(&answer),
    })
}

fn stories(answer: &Value) -> String {
    let ports = array(answer);
    if ports.is_empty() {
        return "no address has a TLS listener\n".to_owned();
    }
    ports.iter().map(story).collect::<Vec<_>>().join("\n")
}

/// What would happen on one address and port.
fn story(port: &Value) -> String {
    let name = match port["name"].as_str().unwrap_or_default() {
        "" => "no server name".to_owned(),
        name => format!("server name {name}"),
    };
    let mut story = Story { text: format!("{}, {name}\n", cell(&port["gateway"])), steps: 0 };
    if port["kind"] == "TLS" {
        let wildcards: Vec<_> = array(&port["wildcards"]).iter().map(cell).collect();
        let wildcards = if wildcards.is_empty() { "none".to_owned() } else { wildcards.join(", ") };
        let listeners: Vec<_> = array(&port["listeners"]).iter().map(cell).collect();
        story.step(format!("LISTENERS: TLS, of {}; labels after the asterisks: {wildcards}", listeners.join(", ")));
    }
    for candidate in array(&port["candidates"]) {
        let entry = &candidate["entry"];
        let mut text = format!("SNI {}: {}", cell(&candidate["name"]), cell(&candidate["verdict"]));
        if entry.is_object() {
            let to = match entry["route"].as_str() {
                Some(route) => format!("{route}, {}, set {}", cell(&entry["mode"]), cell(&entry["backendSet"])),
                None => "no route takes it".to_owned(),
            };
            let _ = write!(text, ": listener {}, {to}, {} hits", cell(&entry["listener"]), cell(&entry["hits"]));
        }
        story.step(text);
    }
    for other in array(&port["others"]) {
        story.more(format!("not {} of {}: {}", cell(&other["name"]), cell(&other["listener"]), cell(&other["why"])));
    }
    if let Some(left_out) = port["othersLeftOut"].as_u64().filter(|n| *n > 0) {
        story.more(format!("nor {left_out} other names"));
    }
    if let Some(set) = port.get("set") {
        story.step(format!("BACKEND_SETS {}:", cell(&set["id"])));
        for member in array(&set["members"]) {
            let share = member["share"].as_f64().unwrap_or_default() * 100.0;
            story.more(format!("{share:.4}% {}", cell(&member["name"])));
        }
    }
    if let Some(pick) = port.get("pick") {
        let nested = match pick["nestedSlot"].as_u64() {
            Some(slot) => format!(", there on to nested slot {slot}"),
            None => String::new(),
        };
        let (slot, slots, hash) = (cell(&pick["slot"]), cell(&pick["slots"]), cell(&pick["hash"]));
        story.step(format!("SLOTS: hash {hash} is slot {slot} of {slots}{nested}: {}", cell(&pick["name"])));
    }
    let (kind, to) = (&port["outcome"]["kind"], cell(&port["outcome"]["to"]));
    story.text
        + &match kind.as_str().unwrap_or_default() {
            "passthrough" => format!("=> passed through to {to}\n"),
            "terminate" => format!("=> to {to}, which ends TLS\n"),
            "refused" => format!("=> refused: {to}\n"),
            _ => format!("=> {to}\n"),
        }
}

struct Story {
    text: String,
    steps: usize,
}

impl Story {
    fn step(&mut self, text: String) {
        self.steps += 1;
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{:3}. {text}", self.steps);
    }

    fn more(&mut self, text: String) {
        let _ = writeln!(self.text, "     {text}");
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn live(options: &Options) -> anyhow::Result<ExitCode> {
    let mut stories = Stories::default();
    client::watch(&options.agent.socket, &Query::Live, |line| {
        let event: Value = serde_json::from_str(line)?;
        if event["event"] == "watching" {
            eprintln!("watching; end with Ctrl-C");
            return Ok(());
        }
        let wanted = stories.follow(&event, |event| options.wants(event));
        let text = match (wanted, options.output) {
            (None, _) => return Ok(()),
            (Some(text), Output::Table) => text,
            (Some(_), _) => format!("{line}\n"),
        };
        output::print(&text).map(drop)
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Options {
    /// Whether a connection that opens or is refused is one of those that are asked for.
    fn wants(&self, event: &Value) -> bool {
        let client = event["client"].as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        let gateway = event["gateway"].as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        let name = event["server_name"].as_str().unwrap_or_default();
        let from = self.from.is_none_or(|(address, port)| {
            client.is_some_and(|client| client.ip() == address && port.is_none_or(|port| port == client.port()))
        });
        let to = self.to.is_none_or(|to| gateway == Some(to));
        from && to && self.sni.as_ref().is_none_or(|sni| sni.eq_ignore_ascii_case(name))
    }
}

/// Connections under way, by client and Gateway.
#[derive(Default)]
struct Stories {
    present: HashMap<(String, String, String), Told>,
    numbers: u64,
}

struct Told {
    number: u64,
    opened: Option<jiff::Timestamp>,
    /// Filtered out.
    silent: bool,
    /// Another backend comes next.
    retried: bool,
}

/// Connections whose end was not seen do not pile up.
const MOST: usize = 100_000;

impl Stories {
    /// The next line of a connection's story, if it is wanted.
    fn follow(&mut self, event: &Value, wants: impl Fn(&Value) -> bool) -> Option<String> {
        let what = event["event"].as_str().unwrap_or_default();
        if what == "missed" {
            return Some(format!("{} events were missed: they came too fast\n", cell(&event["events"])));
        }
        let key = ["protocol", "client", "gateway"].map(|field| cell(&event[field])).into();
        let time = event["time"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        if what == "opened" || what == "refused" || !self.present.contains_key(&key) {
            if self.present.len() == MOST {
                self.present.clear();
            }
            let before = self.present.get(&key).filter(|told| what == "refused" || told.retried);
            // What comes of a retry does not have the name any more.
            let silent = !wants(event) && before.is_none_or(|told| told.silent);
            let number = before.filter(|told| !told.silent).map_or_else(
                || {
                    self.numbers += u64::from(!silent);
                    self.numbers
                },
                |told| told.number,
            );
            let first = time.filter(|_| what == "opened");
            let opened = before.map_or(first, |told| told.opened);
            self.present.insert(key.clone(), Told { number, opened, silent, retried: false });
        }
        let told = self.present.get_mut(&key)?;
        told.retried |= what == "retried";
        let line = (!told.silent).then(|| {
            let after = match (told.opened, time) {
                (Some(opened), Some(time)) if opened != time => {
                    format!(" after {:.3} ms", (time - opened).total(jiff::Unit::Millisecond).unwrap_or_default())
                }
                _ => String::new(),
            };
            let clock = time.map(|time| time.strftime("%H:%M:%S%.6f").to_string()).unwrap_or_default();
            format!("{clock} #{} {}{after}\n", told.number, sentence(what, event))
        });
        // One that no backend is left for is told so behind its end.
        if what == "refused" || (what == "closed" && !told.retried) {
            self.present.remove(&key);
        }
        line
    }
}

fn sentence(what: &str, event: &Value) -> String {
    let backend = match event["service"].as_str() {
        Some(service) => format!("{service} {}", cell(&event["backend"])),
        None => cell(&event["backend"]),
    };
    let name = event["server_name"].as_str();
    let asked = name.map(|name| format!(", asks for {name}")).unwrap_or_default();
    let from = format!("{} {} to {}", cell(&event["protocol"]), cell(&event["client"]), cell(&event["gateway"]));
    match what {
        "opened" => format!("opened: {from}{asked}; listener {}, backend {backend}", cell(&event["listener"])),
        "retried" => format!("retried: backend {backend} did not answer"),
        "delivered" => format!("delivered: backend {backend} has the whole ClientHello"),
        "refused" => format!("refused: {from}{asked}; {}", cell(&event["reason"])),
        "closed" => {
            let count = |field: &str| cell(&event[field]);
            format!("closed ({}): {} bytes in, {} out", count("reason"), count("bytes_in"), count("bytes_out"))
        }
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(what: &str, second: u32, name: Option<&str>) -> Value {
        json!({
            "time": format!("2026-01-01T00:00:0{second}.000000Z"), "event": what, "protocol": "TCP",
            "client": "198.18.0.1:4000", "gateway": "198.19.0.1:443", "listener": "default/gw/tls",
            "server_name": name, "service": "default/web:443", "backend": "198.18.1.1:443",
            "reason": "closed", "bytes_in": 10, "bytes_out": 20,
        })
    }

    #[test]
    fn a_gateway_address_without_its_port_is_told_what_to_be() {
        assert!(gateway_address("198.18.0.1:443").is_ok() && gateway_address("[2001:db8::1]:443").is_ok());
        for wrong in ["198.18.0.1", "2001:db8::1", "gateway:443"] {
            assert!(gateway_address(wrong).unwrap_err().contains("with a port"), "{wrong}");
        }
    }

    #[test]
    fn the_story_of_a_connection_has_its_number_and_times() {
        let mut stories = Stories::default();
        let mut told = |event: Value| stories.follow(&event, |_| true).unwrap();
        let opened = "00:00:01.000000 #1 opened: TCP 198.18.0.1:4000 to 198.19.0.1:443, asks for a.example; listener \
                      default/gw/tls, backend default/web:443 198.18.1.1:443\n";
        assert_eq!(told(event("opened", 1, Some("a.example"))), opened);
        let delivered = "00:00:02.000000 #1 delivered: backend default/web:443 198.18.1.1:443 has the whole ClientHello \
                         after 1000.000 ms\n";
        assert_eq!(told(event("delivered", 2, None)), delivered);
        assert_eq!(
            told(event("closed", 3, None)),
            "00:00:03.000000 #1 closed (closed): 10 bytes in, 20 out after 2000.000 ms\n"
        );
        assert!(told(event("opened", 4, None)).starts_with("00:00:04.000000 #2 opened"));
    }

    fn asks_for(sni: &str) -> Options {
        Options {
            sni: Some(sni.to_owned()),
            from: Some(client_address("198.18.0.1").unwrap()),
            to: None,
            http: None,
            header: Vec::new(),
            live: true,
            agent: AgentSocket { socket: "/s".into() },
            output: Output::Table,
        }
    }

    #[test]
    fn a_connection_that_goes_to_another_backend_stays_one_story() {
        for ends in [&["opened", "closed"][..], &["closed", "refused"]] {
            let options = asks_for("a.example");
            let mut stories = Stories::default();
            let mut told = |event: Value| stories.follow(&event, |event| options.wants(event)).unwrap_or_default();
            assert!(told(event("opened", 1, Some("a.example"))).contains(" #1 opened: "));
            assert!(told(event("retried", 2, None)).ends_with(" did not answer after 1000.000 ms\n"));
            assert!(told(event("opened", 2, None)).contains(" #1 opened: "));
            assert!(told(event("retried", 3, None)).contains(" #1 retried: "));
            for what in ends {
                let line = told(event(what, 4, None));
                assert!(line.contains(&format!(" #1 {what}")) && line.ends_with(" after 3000.000 ms\n"), "{line}");
            }
            // The same client's next is another story.
            assert_eq!(told(event("opened", 5, Some("b.example"))), "");
        }
    }

    #[test]
    fn only_connections_that_are_asked_for_are_told() {
        let options = asks_for("A.example");
        let mut stories = Stories::default();
        let mut follow = |event: Value| stories.follow(&event, |event| options.wants(event)).is_some();
        assert!(!follow(event("opened", 1, Some("b.example"))));
        assert!(!follow(event("delivered", 1, None)));
        assert!(!follow(event("closed", 1, None)));
        assert!(follow(event("opened", 1, Some("a.example"))));
        assert!(follow(event("closed", 1, None)));
    }

    #[test]
    fn clients_are_read_with_and_without_a_port() {
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(client_address("2001:db8::1"), Ok((v6, None)));
        assert_eq!(client_address("[2001:db8::1]"), Ok((v6, None)));
        assert_eq!(client_address("[2001:db8::1]:7"), Ok((v6, Some(7))));
        assert!(client_address("web").is_err());
    }

    #[test]
    fn a_trace_says_what_matches_and_why_the_others_do_not() {
        let entry = json!({"listener": "default/gw/tls", "route": "TLSRoute default/web", "mode": "passthrough", "backendSet": 3, "hits": 5});
        let port = json!({
            "gateway": "198.19.0.1:443", "name": "a.example", "kind": "TLS", "listeners": ["default/gw/tls"], "wildcards": [1],
            "candidates": [
                {"name": "a.example", "verdict": "there is none"},
                {"name": "*.example", "verdict": "matches", "entry": entry},
            ],
            "others": [{"name": "b.example", "listener": "default/gw/tls", "why": "another name"}], "othersLeftOut": 7,
            "set": {"id": 3, "members": [{"backend": 4, "name": "default/web:443 198.18.1.1:443", "share": 1.0}]},
            "pick": {"hash": "0f", "slot": 9, "slots": 1021, "backend": 4, "name": "default/web:443 198.18.1.1:443"},
            "outcome": {"kind": "passthrough", "to": "default/web:443 198.18.1.1:443"},
        });
        let expected = "198.19.0.1:443, server name a.example
  1. LISTENERS: TLS, of default/gw/tls; labels after the asterisks: 1
  2. SNI a.example: there is none
  3. SNI *.example: matches: listener default/gw/tls, TLSRoute default/web, passthrough, set 3, 5 hits
     not b.example of default/gw/tls: another name
     nor 7 other names
  4. BACKEND_SETS 3:
     100.0000% default/web:443 198.18.1.1:443
  5. SLOTS: hash 0f is slot 9 of 1021: default/web:443 198.18.1.1:443
=> passed through to default/web:443 198.18.1.1:443
";
        assert_eq!(stories(&json!([port])), expected);
    }
}
