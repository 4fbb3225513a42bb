//! The annotations that Sluice reads. A value that means nothing is an error, for somebody counts on it; a name that means nothing is
//! a warning.

use std::time::Duration;

use super::beside::is_file_name;
use super::read::{self, Fields, Reader};
use super::yaml::{Node, Position, Value};
use crate::index::{Kind, Labels};
use crate::ir::http::Balance;

const PREFIX: &str = "sluice.dev/";

#[derive(Default)]
pub struct Annotations {
    /// Of a Service: its endpoints want PROXY protocol v2.
    pub proxy_protocol: bool,
    /// Of a Service: how its endpoints share requests.
    pub balance: Balance,
    /// Of a Secret and a ConfigMap: files beside the manifest that stand for their data.
    pub files: Files,
    /// Of an HTTPRoute: for its filters of type ExternalAuth.
    pub auth: Auth,
}

#[derive(Default)]
pub struct Files {
    pub chain: Named,
    pub key: Named,
    pub authorities: Named,
}

/// Whether an annotation names a file.
#[derive(Default)]
pub enum Named {
    #[default]
    No,
    /// It is no name of a file that may be read, which is recorded.
    Wrong,
    File(FileName),
}

impl Named {
    pub fn file(&self) -> Option<&FileName> {
        if let Named::File(file) = self { Some(file) } else { None }
    }
}

/// A file of the directory that the manifest is in.
pub struct FileName {
    pub annotation: &'static str,
    pub file: Box<str>,
    pub at: Position,
}

/// What the API leaves open of external authorization.
#[derive(Clone, Copy)]
pub struct Auth {
    pub timeout: Duration,
    pub fails_open: bool,
}

impl Default for Auth {
    fn default() -> Auth {
        Auth { timeout: Duration::from_secs(1), fails_open: false }
    }
}

pub fn read(reader: &mut Reader, kind: Kind, node: &Node) -> Option<Annotations> {
    let Value::Mapping(entries) = &node.value else { return None };
    let mut annotations = Annotations::default();
    for entry in entries {
        let Some(name) = entry.key.strip_prefix(PREFIX) else { continue };
        let known = reader.entry(&entry.key, |r| match kind {
            Kind::Service => of_service(r, name, &entry.value, &mut annotations),
            Kind::Secret => of_secret(r, name, &entry.value, &mut annotations.files),
            Kind::ConfigMap => of_config_map(r, name, &entry.value, &mut annotations.files),
            Kind::HTTPRoute => of_route(r, name, &entry.value, &mut annotations.auth),
            _ => None,
        });
        if known.is_none() {
            let message = match kind {
                Kind::Gateway => "Sluice has no annotations for a Gateway; ignored (what can be set for it is in a SluiceConfig, which \
                                  spec.infrastructure.parametersRef names)"
                    .to_owned(),
                _ => format!("Sluice has no such annotation for a {kind}; ignored (a typing error?)"),
            };
            reader.entry(&entry.key, |r| r.warn(entry.at, message));
        }
    }
    Some(annotations)
}

/// Labels are not what these are.
pub fn as_labels(f: &mut Fields, labels: &Labels) {
    for (key, _) in labels.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
        f.warn_at("labels", format!("{key} is no label but an annotation; move it to metadata.annotations"));
    }
}

/// `None`: there is no such annotation.
fn of_service(reader: &mut Reader, name: &str, node: &Node, annotations: &mut Annotations) -> Option<()> {
    match name {
        "proxy-protocol" => match &node.value {
            Value::Scalar { text, .. } if text == "v2" => annotations.proxy_protocol = true,
            Value::Scalar { text, .. } => {
                reader.error(node.at, format!("is \"{text}\"; use v2, or remove the annotation"));
            }
            _ => reader.error(node.at, "must be a string; use v2, or remove the annotation"),
        },
        "balance" => {
            let words = [("least-request", Balance::LeastRequest), ("round-robin", Balance::RoundRobin)];
            set(&mut annotations.balance, read::one_of(reader, node, &words));
        }
        _ => return None,
    }
    Some(())
}

fn of_secret(reader: &mut Reader, name: &str, node: &Node, files: &mut Files) -> Option<()> {
    match name {
        "tls-crt-file" => files.chain = file(reader, "sluice.dev/tls-crt-file", node),
        "tls-key-file" => files.key = file(reader, "sluice.dev/tls-key-file", node),
        _ => return None,
    }
    Some(())
}

fn of_config_map(reader: &mut Reader, name: &str, node: &Node, files: &mut Files) -> Option<()> {
    match name {
        "ca-crt-file" => files.authorities = file(reader, "sluice.dev/ca-crt-file", node),
        _ => return None,
    }
    Some(())
}

fn of_route(reader: &mut Reader, name: &str, node: &Node, auth: &mut Auth) -> Option<()> {
    match name {
        "external-auth-timeout" => set(&mut auth.timeout, read::time(reader, node)),
        "external-auth-fails-open" => set(&mut auth.fails_open, boolean(reader, node)),
        _ => return None,
    }
    Some(())
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn file(reader: &mut Reader, annotation: &'static str, node: &Node) -> Named {
    if !reader.has_files() {
        reader.warn(node.at, "is for manifests in a directory, with their files beside them; ignored");
        return Named::No;
    }
    let Some(text) = read::string(reader, node) else { return Named::Wrong };
    if !is_file_name(text) {
        let message = format!(
            "\"{text}\" is no file that can be used; name a PEM file of this directory itself, without a path, a dot at its start or the \
             ending of a manifest"
        );
        reader.error(node.at, message);
        return Named::Wrong;
    }
    Named::File(FileName { annotation, file: text.into(), at: node.at })
}

fn boolean(reader: &mut Reader, node: &Node) -> Option<bool> {
    read::one_of(reader, node, &[("true", true), ("false", false)])
}
