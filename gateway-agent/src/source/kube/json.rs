//! JSON of the API to the trees that the readers of manifests read. What nobody reads is left out on arrival.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::source::yaml::{Entry, Node, Position, Value};

/// They make up most of many objects.
const LEFT_OUT: [&str; 2] = ["managedFields", "kubectl.kubernetes.io/last-applied-configuration"];

pub fn node(text: &[u8]) -> serde_json::Result<Node<'_>> {
    serde_json::from_slice::<Located>(text).map(|located| located.0)
}

/// A page of a list: each item is given to `take`, and gone before the next one is read.
pub fn page(text: &[u8], take: impl FnMut(&Node)) -> serde_json::Result<PageEnd> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let end = Page { take }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(end)
}

/// Where a page ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PageEnd {
    /// Of the list, for a watch that goes on from there.
    pub version: String,
    /// What to ask for the next page with; empty: there is none.
    pub next: String,
}

struct Located<'de>(Node<'de>);

impl<'de> Deserialize<'de> for Located<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree).map(|value| Located(Node { at: Position::NOWHERE, value }))
    }
}

struct Tree;

fn scalar(text: impl Into<Cow<'static, str>>) -> Value<'static> {
    Value::Scalar { text: text.into(), plain: true }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
        Ok(scalar("null"))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(scalar(if value { "true" } else { "false" }))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(scalar(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(scalar(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(scalar(value.to_string()))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Scalar { text: text.into(), plain: false })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Scalar { text: text.to_owned().into(), plain: false })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(Located(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            if LEFT_OUT.contains(&&*key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Located(value) = map.next_value()?;
            entries.push(Entry { key, at: Position::NOWHERE, value });
        }
        Ok(Value::Mapping(entries))
    }
}

/// A key without escapes is not copied.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(text.into()))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(text.to_owned().into()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

struct Page<F> {
    take: F,
}

impl<'de, F: FnMut(&Node)> DeserializeSeed<'de> for Page<F> {
    type Value = PageEnd;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PageEnd, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&Node)> Visitor<'de> for Page<F> {
    type Value = PageEnd;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<PageEnd, A::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            #[serde(default)]
            resource_version: String,
            #[serde(default, rename = "continue")]
            next: String,
        }
        let mut end = PageEnd::default();
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "metadata" => {
                    let Metadata { resource_version, next } = map.next_value()?;
                    end = PageEnd { version: resource_version, next };
                }
                "items" => map.next_value_seed(Items(&mut self.take))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(end)
    }
}

struct Items<'f, F>(&'f mut F);

impl<'de, F: FnMut(&Node)> DeserializeSeed<'de> for Items<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&Node)> Visitor<'de> for Items<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of objects, or null")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(Located(item)) = seq.next_element()? {
            (self.0)(&item);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_gives_its_items_and_where_the_next_one_begins() {
        let text =
            br#"{"kind":"ServiceList","metadata":{"resourceVersion":"7","continue":"c"},"items":[{"a":1},{"a":"1"}]}"#;
        let mut seen = Vec::new();
        let end = page(text, |item| seen.push(format!("{:?}", item.get("a").unwrap().value))).unwrap();
        assert_eq!(end, PageEnd { version: "7".into(), next: "c".into() });
        // A number is none of the strings.
        assert_eq!(seen, [r#"Scalar { text: "1", plain: true }"#, r#"Scalar { text: "1", plain: false }"#]);
        assert!(page(br#"{"metadata":{},"items":null}"#, |_| unreachable!()).is_ok());
    }

    #[test]
    fn what_nobody_reads_is_left_out() {
        let text = br#"{"metadata":{"name":"a","managedFields":[{"manager":"x"}],
            "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","b\u002e":"c"}}}"#;
        let node = node(text).unwrap();
        let metadata = node.get("metadata").unwrap();
        assert!(metadata.get("managedFields").is_none());
        let Value::Mapping(annotations) = &metadata.get("annotations").unwrap().value else { unreachable!() };
        assert_eq!(annotations.iter().map(|entry| &*entry.key).collect::<Vec<_>>(), ["b."]);
    }
}
