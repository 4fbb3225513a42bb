//! One file: documents, lists and objects.

use std::sync::Arc;

use serde::de::IgnoredAny;

use super::beside::Beside;
use super::kinds;
use super::read::Reader;
use super::yaml::{self, Broken, Node, Position, Value};
use super::{Problem, Severity, Strings};
use crate::index::{Kind, Name, Object, ObjectId, Origin};

/// What a file says.
#[derive(Debug, Default)]
pub struct Manifest {
    /// In the order of the file.
    pub objects: Vec<Object>,
    /// Objects that are there, but wrong.
    pub rejected: Vec<ObjectId>,
    /// Of `objects`, those that take data from files that are not as they must be.
    pub unsound: Vec<ObjectId>,
    /// Objects of kinds that Sluice does not read: `apiVersion kind`, and where.
    pub foreign: Vec<(Box<str>, Origin)>,
    pub problems: Vec<Problem>,
}

/// Reads a text. `Err`: it is no YAML at all, so nothing can be said of its objects.
pub fn read(file: &Arc<str>, text: &str, strings: &mut Strings) -> Result<Manifest, Problem> {
    read_beside(file, text, strings, None)
}

/// The same, of a text with files beside it.
pub fn read_beside(
    file: &Arc<str>,
    text: &str,
    strings: &mut Strings,
    beside: Option<&Beside>,
) -> Result<Manifest, Problem> {
    let documents =
        yaml::documents(text).map_err(|broken| broken_json(text).unwrap_or(broken)).map_err(|broken| Problem {
            origin: Origin { file: file.clone(), line: broken.at.line },
            column: broken.at.column,
            start: broken.at.line,
            severity: Severity::Error,
            object: None,
            field: "".into(),
            message: format!("is neither YAML nor JSON: {}", broken.message).into(),
        })?;
    let mut manifest = Manifest::default();
    for document in &documents {
        manifest.take((file, beside), document, None, strings);
    }
    Ok(manifest)
}

/// A YAML parser looks for the end of a JSON object much too long; a JSON parser knows the place.
fn broken_json(text: &str) -> Option<Broken> {
    let error = text.trim_start().starts_with('{').then(|| serde_json::from_str::<IgnoredAny>(text).err()).flatten()?;
    let at = Position { line: error.line() as u32, column: error.column() as u32 };
    let message = error.to_string();
    // It repeats the place.
    let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message).to_owned();
    Some(Broken { at, message })
}

impl Manifest {
    /// `inherited`: apiVersion and kind for the items of a typed list, which may leave them out.
    fn take(
        &mut self,
        (file, beside): (&Arc<str>, Option<&Beside>),
        node: &Node,
        inherited: Option<(&str, &str)>,
        strings: &mut Strings,
    ) {
        let mut nobody = Reader::new(file.clone(), None, node.at, strings);
        let Value::Mapping(_) = &node.value else {
            nobody.error(node.at, "is no Kubernetes object: must be a mapping with apiVersion and kind");
            return self.problems.extend(nobody.into_problems());
        };
        let string = |key: &str| node.get(key).and_then(Node::text);
        let api_version = string("apiVersion").or(inherited.map(|i| i.0));
        let kind = string("kind").or(inherited.map(|i| i.1));
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            let missing = if api_version.is_none() { "apiVersion" } else { "kind" };
            nobody.error(node.at, format!("is no Kubernetes object: {missing} is missing, or is no string"));
            return self.problems.extend(nobody.into_problems());
        };
        if let Some(item_kind) = kind.strip_suffix("List") {
            let inherited = (!item_kind.is_empty()).then_some((api_version, item_kind));
            return self.take_list((file, beside), node, inherited, strings);
        }
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let Some(kind) = kinds::kind_named(group, kind) else {
            return self.foreign.push((format!("{api_version} {kind}").into(), nobody.origin()));
        };
        let id = identify(kind, node);
        let mut reader = Reader::new(file.clone(), Some(id.clone()), node.at, strings).with_files(beside);
        if kinds::versions(kind).contains(&version) {
            match kinds::object(&mut reader, kind, version, node) {
                Some(object) => self.objects.push(object),
                None => self.rejected.push(id.clone()),
            }
        } else {
            let at = node.get("apiVersion").map_or(node.at, |n| n.at);
            let versions = kinds::versions(kind).join(", ");
            reader.error_in(
                "apiVersion",
                at,
                format!("there is no {kind} of version {version}; use one of {versions}"),
            );
            self.rejected.push(id.clone());
        }
        if reader.is_unsound() {
            self.unsound.push(id);
        }
        self.problems.extend(reader.into_problems());
    }

    fn take_list(
        &mut self,
        (file, beside): (&Arc<str>, Option<&Beside>),
        node: &Node,
        inherited: Option<(&str, &str)>,
        strings: &mut Strings,
    ) {
        let Some(items) = node.get("items").filter(|items| !items.is_null()) else { return };
        match &items.value {
            Value::Sequence(items) => items.iter().for_each(|item| self.take((file, beside), item, inherited, strings)),
            _ => {
                let mut nobody = Reader::new(file.clone(), None, node.at, strings);
                nobody.error_in("items", items.at, "must be a list");
                self.problems.extend(nobody.into_problems());
            }
        }
    }
}

/// Which object this wants to be, however wrong the rest of it is.
pub fn identify(kind: Kind, node: &Node) -> ObjectId {
    let namespace = if kind.namespaced() { node.text_at(&["metadata", "namespace"]).unwrap_or("default") } else { "" };
    let name = node.text_at(&["metadata", "name"]).unwrap_or("(without a name)");
    ObjectId { kind, name: Name { namespace: namespace.into(), name: name.into() } }
}
