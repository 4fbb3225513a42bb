//! Which name leads where, and what clients are told whose name leads nowhere.

use anyhow::{Context, Result};
use gateway_common::{Config, Reason, SniName, event_kind, flow_state, slot};

use crate::answer::reset;
use crate::cases::Cases;
use crate::hello::{Hello, alert, description, extension, hello, host_name, record};
use crate::lab::{Lab, wildcard_bit};
use crate::net::{Port, Version};
use crate::packet::Packet;
use crate::scene::Place;
use crate::tls::{NAME, Tls};

pub fn add(cases: &mut Cases) {
    cases.each("splice/names/exact_then_longest_wildcard_then_everybody", precedence);
    cases.each("splice/names/letters_of_any_case", any_case);
    cases.each("splice/names/longest_name", longest);
    cases.each("splice/names/many_labels", many_labels);
    cases.each("splice/names/long_labels", long_labels);
    cases.each("splice/names/that_are_none", no_names);
    cases.each("splice/names/none_given", none_given);
    cases.each("splice/names/unknown", unknown);
    cases.each("splice/names/known_without_a_route", without_route);
    cases.each("splice/names/of_another_port", other_port);
    cases.each("splice/names/hits_are_counted", hits);
    cases.each("splice/refused/what_is_no_tls", not_tls);
    cases.each("splice/refused/hellos_that_contradict_themselves", malformed);
    cases.each("splice/refused/alert_again", alert_again);
    cases.each("splice/refused/client_closes_after_the_alert", after_the_alert);
    cases.each("splice/refused/reset_after_the_alert", reset_after_the_alert);
    cases.each("splice/refused/with_holes", refused_with_holes);
    cases.each("splice/refused/new_connection_after_the_alert", new_connection);
    cases.each("splice/refused/invalid_and_empty_backends", invalid_and_empty);
    cases.each("splice/refused/no_backend_at_all", no_backend);
}

/// The alert and the FIN after it.
fn alerted(tls: &Tls, code: u8, acknowledged: u32) -> Packet {
    tls.own("FPA", 0, acknowledged, 0).data(&alert(code))
}

/// A new client sends these bytes, and is refused for this reason.
#[track_caller]
fn refused(lab: &mut Lab, tls: &Tls, port: u16, bytes: &[u8], reason: Reason) -> Result<Tls> {
    let mut tls = tls.client_port(port);
    tls.opened(lab)?;
    let code = match reason {
        Reason::NotTls => description::UNEXPECTED_MESSAGE,
        Reason::MalformedHello => description::DECODE_ERROR,
        Reason::UnrecognizedName => return unrecognized(lab, tls, bytes),
        other => panic!("{other:?} has no alert here"),
    };
    let outcome = lab.tc(Port::Ext0, &tls.up("PA", 0, 0).data(bytes).frame())?;
    outcome.answered(reason, &alerted(&tls, code, bytes.len() as u32));
    assert!(lab.hello(&tls.forward_key())?.is_none(), "the slot is free again");
    Ok(tls)
}

/// A RST, and nothing is left of it.
#[track_caller]
fn unrecognized(lab: &mut Lab, tls: Tls, bytes: &[u8]) -> Result<Tls> {
    let packet = tls.up("PA", 0, 0).data(bytes);
    lab.tc(Port::Ext0, &packet.frame())?.answered(Reason::UnrecognizedName, &reset(&packet));
    assert!(lab.hello(&tls.forward_key())?.is_none(), "the slot is free again");
    assert_eq!(lab.handshake(&tls.forward_key())?, None);
    Ok(tls)
}

/// Leads to another backend for each pattern, so that the SYN tells which it was.
fn lead(lab: &mut Lab, tls: &Tls, pattern: &str, backend: usize) -> Result<()> {
    let set = lab.set(&[tls.id(backend)], &[])?;
    lab.server_name(tls.gateway, pattern, tls.passthrough(set))
}

#[track_caller]
fn leads_to(lab: &mut Lab, tls: &Tls, port: u16, name: &str, backend: usize) -> Result<()> {
    let mut tls = Tls { at: backend, ..tls.client_port(port) };
    tls.connecting_with(lab, &hello(name).bytes()).with_context(|| format!("{name} to {backend}"))?;
    tls.in_state(lab, flow_state::CONNECTING)
}

fn precedence(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let patterns = ["*.example.com", "*.b.example.com", "*.com"];
    let mut wildcards = patterns.iter().fold(0, |bits, pattern| bits | wildcard_bit(pattern));
    lab.put_tls_listener(tls.gateway, tls.listener, wildcards, 1400)?;
    lead(lab, &tls, "www.example.com", 0)?;
    lead(lab, &tls, "*.example.com", 1)?;
    lead(lab, &tls, "*.b.example.com", 2)?;
    lead(lab, &tls, "*.com", 0)?;
    for (i, (name, backend)) in [
        ("www.example.com", 0),
        ("wwww.example.com", 1),
        ("a.example.com", 1),
        ("b.example.com", 1),
        ("a.b.example.com", 2),
        // One label or more (Gateway API, Hostname).
        ("c.a.b.example.com", 2),
        ("x.y.z.example.com", 1),
        ("www.www.example.com", 1),
        // A wildcard does not match what follows its asterisk.
        ("example.com", 0),
        ("other.com", 0),
    ]
    .into_iter()
    .enumerate()
    {
        leads_to(lab, &tls, 10_000 + i as u16, name, backend)?;
    }
    for (i, name) in ["com", "example.org", "www.example.com.org", "localhost"].into_iter().enumerate() {
        refused(lab, &tls, 11_000 + i as u16, &hello(name).bytes(), Reason::UnrecognizedName)?;
    }
    wildcards |= wildcard_bit("*");
    lab.put_tls_listener(tls.gateway, tls.listener, wildcards, 1400)?;
    lead(lab, &tls, "*", 2)?;
    for (i, (name, backend)) in
        [("com", 2), ("example.org", 2), ("example.com", 0), ("www.example.com", 0)].into_iter().enumerate()
    {
        leads_to(lab, &tls, 12_000 + i as u16, name, backend)?;
    }
    Ok(())
}

fn any_case(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    lab.put_tls_listener(tls.gateway, tls.listener, wildcard_bit("*.example.org"), 1400)?;
    lead(lab, &tls, "*.example.org", 1)?;
    for (i, name) in ["WWW.EXAMPLE.COM", "wWw.eXaMpLe.CoM"].into_iter().enumerate() {
        leads_to(lab, &tls, 10_000 + i as u16, name, 0)?;
    }
    leads_to(lab, &tls, 10_010, "Aa-Zz_09.Example.ORG", 1)?;
    // Only letters have a case: 0x20 apart are also these.
    refused(lab, &tls, 10_011, &hello("www\u{e}example.com").bytes(), Reason::MalformedHello)?;
    refused(lab, &tls, 10_012, &hello("www.example.c\u{4f}\u{60}").bytes(), Reason::MalformedHello)?;
    Ok(())
}

fn of_length(length: usize) -> String {
    let label = "a".repeat(49);
    let mut name = vec![label; length / 50 + 1].join(".");
    name.truncate(length);
    if name.ends_with('.') {
        name.replace_range(length - 1.., "b");
    }
    name
}

fn longest(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    lab.put_tls_listener(tls.gateway, tls.listener, wildcard_bit("*"), 1400)?;
    lead(lab, &tls, "*", 1)?;
    for (i, length) in [1, 2, 63, 64, 127, 128, 252, 253].into_iter().enumerate() {
        leads_to(lab, &tls, 10_000 + i as u16, &of_length(length), 1)?;
        lead(lab, &tls, &of_length(length), 2)?;
        leads_to(lab, &tls, 10_100 + i as u16, &of_length(length), 2)?;
    }
    for (i, length) in [254, 255, 256, 300, 512, 1_000].into_iter().enumerate() {
        refused(lab, &tls, 11_000 + i as u16, &hello(&of_length(length)).bytes(), Reason::MalformedHello)?;
    }
    Ok(())
}

/// RFC 1035 section 2.3.4: at most 63 bytes.
fn long_labels(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    lab.put_tls_listener(tls.gateway, tls.listener, wildcard_bit("*"), 1400)?;
    lead(lab, &tls, "*", 1)?;
    let (longest, longer) = ("a".repeat(63), "a".repeat(64));
    for (i, place) in ["{}", "{}.example.com", "www.{}.com", "www.example.{}"].into_iter().enumerate() {
        let with = |label: &str| place.replace("{}", label);
        leads_to(lab, &tls, 10_000 + i as u16, &with(&longest), 1)?;
        refused(lab, &tls, 11_000 + i as u16, &hello(&with(&longer)).bytes(), Reason::MalformedHello)?;
    }
    Ok(())
}

fn many_labels(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    for (i, count) in [2, 30, 31, 32, 40, 125].into_iter().enumerate() {
        let labels = |count: usize| format!("{}{i}", "a.".repeat(count - 1));
        let pattern = format!("*.{}", labels(count));
        lab.put_tls_listener(tls.gateway, tls.listener, wildcard_bit(&pattern), 1400)?;
        lead(lab, &tls, &pattern, 1)?;
        leads_to(lab, &tls, 10_000 + i as u16, &labels(count + 1), 1)?;
        let other = format!("b.{}", labels(count - 1));
        refused(lab, &tls, 10_100 + i as u16, &hello(&other).bytes(), Reason::UnrecognizedName)?;
    }
    Ok(())
}

/// RFC 6066 section 3: a DNS host name, without a trailing dot.
fn no_names(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    // Everybody is welcome who has a name.
    lab.put_tls_listener(tls.gateway, tls.listener, wildcard_bit("*") | wildcard_bit("*.example.com"), 1400)?;
    lead(lab, &tls, "*", 1)?;
    lead(lab, &tls, "*.example.com", 1)?;
    let names: &[&[u8]] = &[
        b"www.example.com.",
        b".",
        b".www.example.com",
        b"www..example.com",
        b"..",
        b"www.example.com\0",
        b"\0",
        b"www example.com",
        b"www.example.com:443",
        b"www/example.com",
        b"*.example.com",
        b"*",
        b"w\xc3\xbcw.example.com",
        b"[2001:db8::1]",
        b"www.ex\x7fample.com",
        b"www.example.com/",
        b"@.example.com",
        b"`.example.com",
        b"{.example.com",
    ];
    for (i, name) in names.iter().enumerate() {
        let bytes = Hello::nameless().server_name(&host_name(name)).bytes();
        refused(lab, &tls, 10_000 + i as u16, &bytes, Reason::MalformedHello).with_context(|| format!("{name:?}"))?;
    }
    Ok(())
}

fn none_given(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = Hello::nameless().bytes();
    refused(lab, &tls, 10_000, &bytes, Reason::UnrecognizedName)?;
    lab.put_tls_listener(tls.gateway, tls.listener, wildcard_bit("*"), 1400)?;
    lead(lab, &tls, "*", 1)?;
    let mut tls = Tls { at: 1, ..tls.client_port(10_001) };
    tls.connecting_with(lab, &bytes)?;
    // TLS 1.0 without extensions at all.
    let mut body = [&[3, 1][..], &[0x11; 32], &[0], &[0, 4, 0, 47, 0, 53], &[1, 0]].concat();
    let mut message = vec![1, 0, 0, body.len() as u8];
    message.append(&mut body);
    let mut tls = tls.client_port(10_002);
    tls.connecting_with(lab, &record(22, &message))
}

fn unknown(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    lab.configure(Config { events: 1, ..Config::default() })?;
    let long = format!("{}.example.net", "a".repeat(60));
    for (i, name) in
        ["example.com", "ww.example.com", "xwww.example.com", "a.www.example.com", &long].iter().enumerate()
    {
        let tls = refused(lab, &tls, 10_000 + i as u16, &hello(name).bytes(), Reason::UnrecognizedName)?;
        let events = lab.events()?;
        assert_eq!(events.len(), 1, "{events:?}");
        let event = events[0];
        assert_eq!((event.kind, event.detail), (event_kind::REFUSED, Reason::UnrecognizedName as u32));
        assert_eq!((event.client, event.listener, event.backend), (tls.forward_key(), tls.listener, 0));
        // For people: at most 63 bytes.
        let shown = &name.as_bytes()[..name.len().min(63)];
        assert_eq!(event.name[..shown.len()], *shown);
        assert!(event.name[shown.len()..].iter().all(|byte| *byte == 0), "{:?}", event.name);
    }
    let counter = lab.listener_counter(tls.listener)?;
    assert_eq!((counter.refused, counter.picked), (5, 0));
    Ok(())
}

/// A listener has the hostname, and no route of it takes it.
fn without_route(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    lab.put_tls_listener(tls.gateway, tls.listener, wildcard_bit("*"), 1400)?;
    lead(lab, &tls, "*", 1)?;
    let by_name = lab.listener_id();
    lab.server_name(tls.gateway, "empty.example.com", SniName { listener: by_name, ..SniName::default() })?;
    refused(lab, &tls, 10_000, &hello("empty.example.com").bytes(), Reason::UnrecognizedName)?;
    let counter = lab.listener_counter(by_name)?;
    assert_eq!((counter.refused, counter.picked), (1, 0), "counted for the listener that has the name");
    Ok(())
}

fn other_port(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.gateway.set_port(8443);
    tls.listener = lab.tls_listener(tls.gateway, 0, 1400)?;
    refused(lab, &tls, 10_000, &hello(NAME).bytes(), Reason::UnrecognizedName)?;
    lead(lab, &tls, NAME, 2)?;
    leads_to(lab, &tls, 10_001, NAME, 2)
}

fn hits(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    lab.put_tls_listener(tls.gateway, tls.listener, wildcard_bit("*.example.com"), 1400)?;
    lead(lab, &tls, "*.example.com", 1)?;
    for port in 0..3 {
        leads_to(lab, &tls, 10_000 + port, NAME, 0)?;
    }
    leads_to(lab, &tls, 10_010, "other.example.com", 1)?;
    assert_eq!(lab.server_name_entry(tls.gateway, NAME)?.hits, 3);
    assert_eq!(lab.server_name_entry(tls.gateway, "*.example.com")?.hits, 1);
    let counter = lab.listener_counter(tls.by_name)?;
    assert_eq!((counter.picked, counter.established, counter.refused), (4, 0, 0));
    assert_eq!(lab.backend_counter(tls.id(0))?.picked, 3);
    Ok(())
}

fn not_tls(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let sslv2 = [&[0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16][..], &[0, 0, 47, 0, 0, 5, 0, 0, 10], &[1; 28]].concat();
    let mut other_message = hello(NAME).bytes();
    other_message[5] = 2;
    let cases: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &sslv2,
        &record(23, b"application data"),
        &record(21, &[1, 0]),
        &[22, 2, 0, 0, 1],
        &[22, 4, 1, 0, 1],
        &other_message,
        // A single byte tells.
        b"G",
        &[0],
        &[0xff],
        &[22, 0],
        b"\r\n\r\n\0\r\nQUIT\n",
    ];
    for (i, bytes) in cases.iter().enumerate() {
        refused(lab, &tls, 10_000 + i as u16, bytes, Reason::NotTls).with_context(|| format!("{bytes:02x?}"))?;
    }
    let counter = lab.listener_counter(tls.listener)?;
    assert_eq!((counter.refused, counter.picked), (cases.len() as u64, 0));
    Ok(())
}

fn malformed(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let good = hello(NAME).bytes();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let named = |content: &[u8]| Hello::nameless().server_name(content).bytes();
    let name = NAME.as_bytes();
    let mut second_record = hello(NAME).padded_before(300).records(100).bytes();
    second_record[105] = 23;
    let cases: &[(&str, Vec<u8>)] = &[
        ("empty record", record(22, &[]).into_iter().chain([1; 16]).collect()),
        ("record too long", with(3, 0x41)),
        ("message too short", with(8, 30)),
        ("message too long", with(6, 1)),
        ("session id of 33 bytes", with(5 + 4 + 34, 33)),
        ("odd ciphers", with(5 + 4 + 34 + 1 + 32 + 1, 5)),
        ("no ciphers", with(5 + 4 + 34 + 1 + 32 + 1, 0)),
        ("no compression", with(5 + 4 + 34 + 1 + 32 + 2 + 4, 0)),
        ("extensions shorter", with(5 + 4 + 34 + 1 + 32 + 2 + 4 + 2 + 1, 3)),
        ("an extension beyond the end", Hello::nameless().preceded(vec![0x70, 0, 0xff, 0]).bytes()),
        ("half an extension", Hello::nameless().followed(vec![0x70, 0, 0]).bytes()),
        ("no name in the list", named(&[0, 0])),
        ("empty extension", named(&[])),
        ("empty name", named(&host_name(b""))),
        ("another type of name", named(&[&[0, 18, 1, 0, 15][..], name].concat())),
        ("list longer", named(&[&[0, 19, 0, 0, 15][..], name].concat())),
        ("list shorter", named(&[&[0, 17, 0, 0, 15][..], name].concat())),
        ("name longer", named(&[&[0, 18, 0, 0, 16][..], name].concat())),
        ("two names", named(&[&[0, 36, 0, 0, 15][..], name, &[0, 0, 15], name].concat())),
        ("another record in between", second_record),
    ];
    for (i, (what, bytes)) in cases.iter().enumerate() {
        refused(lab, &tls, 10_000 + i as u16, bytes, Reason::MalformedHello).with_context(|| what.to_string())?;
    }
    // Of two such extensions the first counts, as elsewhere nothing after the name is read.
    let twice = hello(NAME).followed(extension(0, &host_name(b"other.example.com"))).bytes();
    tls.client_port(11_000).connecting_with(lab, &twice)
}

fn alert_again(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = Hello::nameless().server_name(&host_name(b"www..example.com")).bytes();
    let tls = refused(lab, &tls, 10_000, &bytes, Reason::MalformedHello)?;
    let length = bytes.len() as u32;
    // The alert was lost: the client sends its hello again, and is refused once.
    let again = tls.up("PA", 0, 0).data(&bytes);
    let answer = alerted(&tls, description::DECODE_ERROR, length);
    lab.tc(Port::Ext0, &again.frame())?.replied(&answer);
    assert_eq!(lab.listener_counter(tls.listener)?.refused, 1);
    Ok(())
}

fn after_the_alert(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = Hello::nameless().server_name(&host_name(b"www..example.com")).bytes();
    let tls = refused(lab, &tls, 10_000, &bytes, Reason::MalformedHello)?;
    let length = bytes.len() as u32;
    // Seven bytes and a FIN.
    lab.tc(Port::Ext0, &tls.up("A", length, 8).frame())?.consumed();
    let fin = tls.up("FA", length, 8);
    for _ in 0..2 {
        lab.tc(Port::Ext0, &fin.frame())?.replied(&tls.own("A", 8, length + 1, 0));
    }
    // With an alert of its own before it.
    let fin = tls.up("FPA", length, 8).data(&[21, 3, 3, 0, 2, 1, 0]);
    lab.tc(Port::Ext0, &fin.frame())?.replied(&tls.own("A", 8, length + 8, 0));
    Ok(())
}

fn reset_after_the_alert(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = b"GET / HTTP/1.0\r\n\r\n";
    let tls = refused(lab, &tls, 10_000, bytes, Reason::NotTls)?;
    lab.tc(Port::Ext0, &tls.up("RA", bytes.len() as u32, 8).frame())?.consumed();
    assert_eq!(lab.handshakes()?, vec![]);
    Ok(())
}

/// The alert acknowledges only what came without a hole.
fn refused_with_holes(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    let text = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    lab.tc(Port::Ext0, &tls.up("A", 20, 0).data(&text[20..]).frame())?.replied(&tls.acknowledgement(0));
    let first = tls.up("A", 0, 0).data(&text[..10]);
    lab.tc(Port::Ext0, &first.frame())?.answered(Reason::NotTls, &alerted(&tls, description::UNEXPECTED_MESSAGE, 10));
    Ok(())
}

fn new_connection(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let mut tls = refused(lab, &tls, 10_000, b"GET / HTTP/1.0\r\n\r\n", Reason::NotTls)?;
    tls.isn = tls.isn.wrapping_add(70_000);
    tls.connecting(lab)?;
    tls.in_state(lab, flow_state::CONNECTING)
}

/// By weight, as on other listeners.
fn invalid_and_empty(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let table = [tls.id(0), slot::INVALID, tls.id(0), slot::EMPTY];
    lab.replace_set(tls.set, &table, &[])?;
    let bytes = tls.hello();
    let mut seen = [0; 3];
    for port in 0..200 {
        let mut tls = tls.client_port(10_000 + port);
        tls.opened(lab)?;
        let packet = tls.up("PA", 0, 0).data(&bytes);
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        match outcome.reasons[..] {
            [] => {
                tls.is_syn(&outcome, &packet)?;
                seen[0] += 1;
            }
            [reason] => {
                outcome.answered(reason, &reset(&packet));
                assert!(lab.hello(&tls.forward_key())?.is_none());
                assert_eq!(lab.handshake(&tls.forward_key())?, None);
                seen[1 + usize::from(reason == Reason::NoBackend)] += 1;
                assert!(matches!(reason, Reason::NoBackend | Reason::InvalidBackend), "{reason:?}");
            }
            ref more => panic!("{more:?}"),
        }
    }
    assert!((70..=130).contains(&seen[0]) && (25..=75).contains(&seen[1]) && (25..=75).contains(&seen[2]), "{seen:?}");
    assert_eq!(lab.listener_counter(tls.by_name)?.refused, 200 - seen[0]);
    Ok(())
}

fn no_backend(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    lab.remove_backend(tls.id(0))?;
    tls.opened(lab)?;
    let packet = tls.up("PA", 0, 0).data(&tls.hello());
    lab.tc(Port::Ext0, &packet.frame())?.answered(Reason::NoBackend, &reset(&packet));
    tls.nothing(lab)
}
