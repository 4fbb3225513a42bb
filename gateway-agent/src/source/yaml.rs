//! YAML text to trees that know where each value was written. JSON is YAML here.
//!
//! The parser is granit-parser: pure Rust without unsafe, fuzzed, and its events carry positions. A deserializer (serde)
//! would lose those where they are wanted most: at unknown fields, at the second of two errors, at the start of an object.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, StrInput};

/// Aliases repeat what they stand for; this bounds what a small file can blow up to.
const MOST_NODES: usize = 4_000_000;

/// Line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl Position {
    /// Of what was never written.
    pub const NOWHERE: Position = Position { line: 0, column: 0 };
}

#[derive(Clone, Debug)]
pub struct Node<'a> {
    pub at: Position,
    pub value: Value<'a>,
}

#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Plain scalars may be numbers, booleans and null; quoted ones are strings.
    Scalar {
        text: Cow<'a, str>,
        plain: bool,
    },
    Sequence(Vec<Node<'a>>),
    Mapping(Vec<Entry<'a>>),
}

#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub key: Cow<'a, str>,
    pub at: Position,
    pub value: Node<'a>,
}

/// Where and why a text is no YAML.
#[derive(Debug)]
pub struct Broken {
    pub at: Position,
    pub message: String,
}

/// The documents of a text; empty ones are left out.
pub fn documents(text: &str) -> Result<Vec<Node<'_>>, Broken> {
    // Editors on other systems put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Builder { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 }.documents()
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn documents(mut self) -> Result<Vec<Node<'a>>, Broken> {
        let mut documents = Vec::new();
        while let Some((event, at)) = self.next()? {
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) => self.anchors.clear(),
                event => {
                    let node = self.node(event, at)?;
                    if !node.is_null() {
                        documents.push(node);
                    }
                }
            }
        }
        Ok(documents)
    }

    /// The next event that is no comment.
    fn next(&mut self) -> Result<Option<(Event<'a>, Position)>, Broken> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, position(&span.start)))),
            Some(Err(error)) => Err(Broken { at: position(error.marker()), message: error.info() }),
        }
    }

    fn expect(&mut self) -> Result<(Event<'a>, Position), Broken> {
        let end = Broken { at: Position { line: 1, column: 1 }, message: "the text ends too early".into() };
        self.next()?.ok_or(end)
    }

    fn node(&mut self, event: Event<'a>, at: Position) -> Result<Node<'a>, Broken> {
        self.count(1, at)?;
        let anchor = event.anchor_id();
        let value = match event {
            Event::Scalar(text, style, _, tag) => {
                // `!!str 8080` is a string although it is plain.
                let text_by_tag = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                Value::Scalar { text, plain: style == ScalarStyle::Plain && !text_by_tag }
            }
            Event::SequenceStart(..) => self.sequence()?,
            Event::MappingStart(..) => self.mapping()?,
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned();
                let node =
                    node.ok_or_else(|| Broken { at, message: "an alias inside of what it stands for".into() })?;
                self.count(node.size(), at)?;
                return Ok(Node { at, ..node });
            }
            other => return Err(Broken { at, message: format!("unexpected {other:?}") }),
        };
        let node = Node { at, value };
        if let Some(id) = anchor {
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self) -> Result<Value<'a>, Broken> {
        let mut items = Vec::new();
        loop {
            match self.expect()? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(items)),
                (event, at) => items.push(self.node(event, at)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value<'a>, Broken> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, at) = self.expect()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let Value::Scalar { text: key, plain } = self.node(event, at)?.value else {
                return Err(Broken { at, message: "a key must be a string".into() });
            };
            let (event, value_at) = self.expect()?;
            let value = self.node(event, value_at)?;
            match value.value {
                // The merge key of YAML 1.1, which kubectl understands.
                Value::Mapping(others) if plain && key == "<<" => merged.extend(others),
                value => entries.push(Entry { key, at, value: Node { at: value_at, value } }),
            }
        }
        for entry in merged {
            if !entries.iter().any(|e| e.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(Value::Mapping(entries))
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), Broken> {
        self.nodes += nodes;
        if self.nodes > MOST_NODES {
            return Err(Broken {
                at,
                message: format!("more than {MOST_NODES} values; aliases that repeat each other?"),
            });
        }
        Ok(())
    }
}

impl<'a> Node<'a> {
    /// The value of a key, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        let Value::Mapping(entries) = &self.value else { return None };
        entries.iter().find(|e| e.key == key).map(|e| &e.value)
    }

    /// The [text](Node::text) at the end of these keys.
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        path.iter().try_fold(self, |node, key| node.get(key))?.text()
    }

    /// A scalar that is not empty.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Those of a list, or none.
    pub fn items(&self) -> &[Node<'a>] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Scalar { .. } => 1,
            Value::Sequence(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Value::Mapping(entries) => 1 + entries.iter().map(|e| e.value.size()).sum::<usize>(),
        }
    }
}

fn position(marker: &granit_parser::Marker) -> Position {
    // A file beyond 4 billion lines does not fit into memory.
    Position { line: marker.line() as u32, column: marker.col() as u32 + 1 }
}
