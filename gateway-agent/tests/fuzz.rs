//! The fuzz targets of the agent's HTTP on their corpus and on some random texts, for who has no fuzzer.

#[path = "../../fuzz/properties/http_framing.rs"]
mod http_framing;
#[path = "../../fuzz/properties/http_host.rs"]
mod http_host;
#[path = "../../fuzz/properties/http_path.rs"]
mod http_path;
#[path = "../../fuzz/properties/http_query.rs"]
mod http_query;
#[path = "../../fuzz/properties/http_request.rs"]
mod http_request;
#[path = "../../fuzz/properties/http_session.rs"]
mod http_session;
#[path = "../../fuzz/properties/replay.rs"]
mod replay;

use proptest::prelude::*;

use crate::replay::replay;

#[test]
fn corpus_of_http_framing() {
    replay("http_framing", http_framing::holds);
}

#[test]
fn corpus_of_http_host() {
    replay("http_host", http_host::holds);
}

#[test]
fn corpus_of_http_path() {
    replay("http_path", http_path::holds);
}

#[test]
fn corpus_of_http_query() {
    replay("http_query", http_query::holds);
}

#[test]
fn corpus_of_http_request() {
    replay("http_request", http_request::holds);
}

#[test]
fn corpus_of_http_session() {
    replay("http_session", http_session::holds);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Of the parts that requests are made of, and of some that they are not.
    #[test]
    fn texts_to_http_framing(
        text in "((GET|POST) (/a|\\*|http://a/|/\"|a:1) HTTP/1\\.[01]\r\n\
                 (Host: a\r\n|Connection: (close|keep-alive)\r\n|Upgrade: x\r\n|Expect: 100-continue\r\n){0,2}\
                 (Content-Length: [0-9]\r\n|Transfer-Encoding: ?chunked\r\n|Content-Length: 1\n|[ -~\r\n]){0,1}\r\n\
                 ([0-9]|a|\r\n|1\r\na\r\n|2;x=y\r\nab\r\n|10\r\n0123456789(abcdef|\r\n0\r\n)\r\n|0\r\n\r\n|0\r\nX: y\r\n\r\n){0,3}){1,3}"
    ) {
        http_framing::holds(text.as_bytes());
    }

    /// Of the parts that hosts are made of, and of some that they are not.
    #[test]
    fn texts_to_http_host(text in r"(a|B|-|_|\.|:|[0-9]|\[|\]|@|%|::1|xn--|\u{e4}){0,12}") {
        http_host::holds(text.as_bytes());
    }

    #[test]
    fn texts_to_http_path(text in r"/(a|b|\.|\.\.|/|//|;|%2[eEfF]|%3[bB]|%5[cC]|%00|%2|%61|%25|\\|\u{e4}){0,12}") {
        http_path::holds(text.as_bytes());
    }

    /// Of the parts that requests are made of, some of them broken.
    #[test]
    fn texts_to_http_request(requests in proptest::collection::vec(request(), 1..4)) {
        http_request::holds(requests.concat().as_bytes());
    }

    #[test]
    fn texts_to_http_session(text in "(a|sid|=|;| |AQ|[ -~]){0,12}") {
        http_session::holds(text.as_bytes());
    }

    #[test]
    fn texts_to_http_query(name in "[a-c+ %]{1,2}", query in r"(a|b|=|&|\+|%2[06bB]|%61|%|%C3%A4|%FF){0,12}") {
        http_query::holds(&[&[name.len() as u8], name.as_bytes(), query.as_bytes()].concat());
    }
}

fn request() -> impl Strategy<Value = String> {
    let line = r"(GET|GET|PUT|G\(T|get) (/|/a\?b|\*|http://b/|//|/%|/\u{e4}| /) HTTP/1\.(1|1|1|0)";
    let name = "(host|X-A|x-a|Connection|Content-Length|content-length|TE|Expect|Upgrade|A b|)";
    let value = r"(a|close|keep-alive|x, close|0|3|4|03|\+3|1, 1|trailers|\t| b |\u{e4})";
    let header = (name, value).prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers = proptest::collection::vec(header, 0..4);
    (line, headers, "(||abc|abcd|GET / )")
        .prop_map(|(line, headers, body)| format!("{line}\r\n{}\r\n{body}", headers.concat()))
}
