//! Host names as the Gateway API has them: RFC 1123 in lower case, with `*.` in front or not.

use std::net::IpAddr;

use gateway_common::server_name::{LONGEST, LONGEST_LABEL};

use super::read::{self, Fields, Reader};
use super::yaml::Node;
use crate::ir::HostName;

const MOST: usize = 1024;

pub fn hostname(reader: &mut Reader, node: &Node) -> Option<HostName> {
    let text = read::name(reader, node)?;
    match why_wrong(&text) {
        None => Some(match text.strip_prefix("*.") {
            Some(suffix) => HostName::Wildcard(suffix.into()),
            None => HostName::Exact(text),
        }),
        Some(why) => {
            reader.error(node.at, format!("\"{text}\" {why}"));
            None
        }
    }
}

/// `spec.hostnames` of a TLSRoute.
pub fn hostnames(f: &mut Fields, optional: bool) -> Option<Box<[HostName]>> {
    let read = |r: &mut Reader, n: &Node| read::items(r, n, &mut hostname);
    if optional {
        return Some(f.optional("hostnames", read).unwrap_or_default());
    }
    let names = f.required("hostnames", read)?;
    if names.is_empty() || names.len() > MOST {
        f.error_at("hostnames", format!("has {} host names; give it 1 to {MOST}", names.len()));
    }
    Some(names)
}

/// The pattern and the rules of the CRDs.
fn why_wrong(text: &str) -> Option<&'static str> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() > LONGEST {
        Some("is too long; a host name has at most 253 characters")
    } else if text.parse::<IpAddr>().is_ok() {
        Some("is an IP address, which no client sends as a server name (RFC 6066); use a host name")
    } else if text == "*" {
        Some(
            "is an asterisk alone; put a domain after it, as in *.example.com (a listener without hostname takes every name)",
        )
    } else if name.contains('*') {
        Some("has an asterisk in the wrong place; only the whole first label can be one, as in *.example.com")
    } else if name.contains(|c: char| c.is_ascii_uppercase()) {
        Some("has capital letters; write it in lower case")
    } else if !name.split('.').all(is_label) {
        Some("is no host name; use labels of a-z, 0-9 and - with dots between them, as in www.example.com")
    } else if name.split('.').any(|label| label.len() > LONGEST_LABEL as usize) {
        // More than the pattern of the CRDs asks for, but no client's name has one (RFC 1035 section 2.3.4).
        Some("has a label that is too long; between two dots there are at most 63 characters")
    } else {
        None
    }
}
