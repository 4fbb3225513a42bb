//! The objects of the cluster as they were last, in a file: an agent that starts serves by them until the API server has answered,
//! however long that is away.
//!
//! After a first line that names the API server there is a line an object, as JSON that kubectl takes. A new version is appended, and only then the one
//! before it is blanked; so the file has one of them whole, whatever ends the agent. Once most of it is blank it is written anew.
//! It is as safe as the memory of this process against a crash of the node, which takes the pinned maps too.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::json;
use crate::index::{Kind, ObjectId};
use crate::source::kinds;
use crate::source::yaml::{Node, Value};

/// Keys of Secrets are in it.
const MODE: u32 = 0o600;
/// So much may be blank in any case.
const SPARE: u64 = 1 << 20;

/// Where an object is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    at: NonZeroU64,
    /// Without the line's end.
    length: u32,
}

/// The open file.
pub struct Kept {
    path: PathBuf,
    server: String,
    file: File,
    end: u64,
    /// Bytes of lines that are not blank.
    live: u64,
    line: Vec<u8>,
}

#[derive(Deserialize)]
struct Head {
    server: String,
}

impl Kept {
    /// Opens or makes the file, and gives each object in it to `take`, which says which one it was. What another API server said is thrown away.
    pub fn open(
        path: &Path,
        server: &str,
        mut take: impl FnMut(Kind, &str, &Node, Line) -> Option<ObjectId>,
    ) -> io::Result<Kept> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = open(path)?;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        let mut at = reader.read_until(b'\n', &mut line)? as u64;
        let head: Option<Head> = serde_json::from_slice(&line).ok();
        let mut kept = Kept {
            path: path.to_owned(),
            server: server.to_owned(),
            file: file.try_clone()?,
            end: 0,
            live: 0,
            line: Vec::new(),
        };
        if head.is_none_or(|head| head.server != server) {
            kept.rewrite(std::iter::empty())?;
            return Ok(kept);
        }
        let mut lines: BTreeMap<ObjectId, Line> = BTreeMap::new();
        let mut whole = true;
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                break;
            }
            whole = line.last() == Some(&b'\n');
            let place = NonZeroU64::new(at).map(|at| Line { at, length: (read - u64::from(whole)) as u32 });
            at += read;
            let Some(place) = place.filter(|_| !line.trim_ascii().is_empty()) else { continue };
            kept.live += u64::from(place.length);
            // A line that the agent before could not finish is no JSON.
            let id = json::node(&line).ok().filter(|_| whole).and_then(|node| {
                let (kind, version) = kind(&node)?;
                take(kind, version, &node, place)
            });
            match id {
                // A later line of the same object is in place of it.
                Some(id) => lines.insert(id, place).into_iter().try_for_each(|before| kept.blank(before))?,
                None => kept.blank(place)?,
            }
        }
        kept.end = at;
        if !whole {
            kept.file.write_all_at(b"\n", kept.end)?;
            kept.end += 1;
        }
        Ok(kept)
    }

    /// Keeps an object, in place of how it was before.
    pub fn put(&mut self, kind: Kind, version: &str, node: &Node, before: Option<Line>) -> io::Result<Line> {
        self.line.clear();
        object(&mut self.line, kind, version, node);
        let line = Line {
            // There is a head.
            at: NonZeroU64::new(self.end).unwrap_or(NonZeroU64::MIN),
            length: u32::try_from(self.line.len()).map_err(io::Error::other)?,
        };
        self.line.push(b'\n');
        self.file.write_all_at(&self.line, self.end)?;
        self.end += self.line.len() as u64;
        self.live += u64::from(line.length);
        before.map_or(Ok(()), |before| self.blank(before))?;
        Ok(line)
    }

    /// Nothing of it is left in the file: it may have been a Secret.
    pub fn blank(&mut self, line: Line) -> io::Result<()> {
        self.live -= u64::from(line.length);
        self.file.write_all_at(&vec![b' '; line.length as usize], line.at.get())
    }

    /// Most of the file is blank.
    pub fn is_wasteful(&self) -> bool {
        self.end > 2 * self.live + SPARE
    }

    /// Writes the file anew with these lines, and tells each where it is now.
    pub fn rewrite<'l>(&mut self, lines: impl Iterator<Item = &'l mut Line>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        // One that an agent could not finish.
        let _ = fs::remove_file(&new);
        let file = open(&new)?;
        let mut writer = io::BufWriter::with_capacity(1 << 16, &file);
        let head = format!("{}\n", serde_json::json!({ "server": self.server }));
        writer.write_all(head.as_bytes())?;
        let mut end = head.len() as u64;
        let mut moved = Vec::new();
        for line in lines {
            self.line.resize(line.length as usize, 0);
            self.file.read_exact_at(&mut self.line, line.at.get())?;
            self.line.push(b'\n');
            writer.write_all(&self.line)?;
            moved.push((line, end));
            end += self.line.len() as u64;
        }
        writer.flush()?;
        drop(writer);
        fs::rename(&new, &self.path)?;
        (self.file, self.end, self.live) = (file, end, 0);
        for (line, at) in moved {
            line.at = NonZeroU64::new(at).unwrap_or(NonZeroU64::MIN);
            self.live += u64::from(line.length);
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An agent that starts is better without a file that is not what was seen last.
    pub fn give_up(self) {
        // If that fails too, what is in it is older.
        let _ = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(path)
}

/// Of a line.
fn kind<'n>(node: &'n Node) -> Option<(Kind, &'n str)> {
    let api_version = node.text_at(&["apiVersion"])?;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let kind = kinds::kind_named(group, node.text_at(&["kind"])?)?;
    // One that the agent before could read.
    let version = kinds::versions(kind).iter().find(|known| **known == version)?;
    node.get("metadata").map(|_| (kind, *version))
}

/// Of a status only the addresses of Gateways are read.
fn object(out: &mut Vec<u8>, kind: Kind, version: &str, node: &Node) {
    let api_version = match kind.group() {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    out.extend_from_slice(format!("{{\"apiVersion\":\"{api_version}\",\"kind\":\"{kind}\"").as_bytes());
    let Value::Mapping(entries) = &node.value else { return out.push(b'}') };
    for entry in entries {
        match &*entry.key {
            "apiVersion" | "kind" => {}
            "status" => {
                if let Some(addresses) = entry.value.get("addresses").filter(|_| kind == Kind::Gateway) {
                    out.extend_from_slice(b",\"status\":{\"addresses\":");
                    value(out, addresses);
                    out.push(b'}');
                }
            }
            key => {
                out.push(b',');
                string(out, key);
                out.push(b':');
                value(out, &entry.value);
            }
        }
    }
    out.push(b'}');
}

/// As it was when it came as JSON.
fn value(out: &mut Vec<u8>, node: &Node) {
    match &node.value {
        Value::Scalar { text, plain: true } => out.extend_from_slice(text.as_bytes()),
        Value::Scalar { text, plain: false } => string(out, text),
        Value::Sequence(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                value(out, item);
            }
            out.push(b']');
        }
        Value::Mapping(entries) => {
            out.push(b'{');
            for (i, entry) in entries.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                string(out, &entry.key);
                out.push(b':');
                value(out, &entry.value);
            }
            out.push(b'}');
        }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::manifest::identify;

    const SERVER: &str = "https://198.19.0.1/";

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("sluice-kept-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("objects.jsonl")
        }

        /// Reads what is kept: by name, the port.
        fn open(&self, server: &str) -> (Kept, BTreeMap<String, (String, Line)>) {
            let mut seen = BTreeMap::new();
            let kept = Kept::open(&self.file(), server, |kind, version, node, line| {
                assert_eq!((kind, version), (Kind::Service, "v1"));
                let port = node.text_at(&["spec", "port"]).unwrap().to_owned();
                let id = identify(kind, node);
                seen.insert(id.name.name.to_string(), (port, line));
                Some(id)
            });
            (kept.unwrap(), seen)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn put(kept: &mut Kept, name: &str, port: u16, before: Option<Line>) -> Line {
        let text = format!(
            "{{\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"a\"}},\"spec\":{{\"port\":{port},\"e\\\"\\n\":[true,null,1.5,\"1\"]}},\"status\":{{\"x\":1}}}}"
        );
        kept.put(Kind::Service, "v1", &json::node(text.as_bytes()).unwrap(), before).unwrap()
    }

    fn ports(seen: &BTreeMap<String, (String, Line)>) -> Vec<(&str, &str)> {
        seen.iter().map(|(name, (port, _))| (&**name, &**port)).collect()
    }

    #[test]
    fn objects_are_found_again_as_they_were_last_and_what_went_leaves_nothing() {
        let folder = Folder::new("again");
        let (mut kept, seen) = folder.open(SERVER);
        assert!(seen.is_empty());
        let first = put(&mut kept, "one", 80, None);
        let two = put(&mut kept, "two", 81, None);
        put(&mut kept, "one", 82, Some(first));
        kept.blank(two).unwrap();
        let text = fs::read_to_string(folder.file()).unwrap();
        assert!(!text.contains("two") && !text.contains("status") && !text.contains(":80"), "{text}");
        let line = text.lines().find(|line| line.contains("one")).unwrap();
        let wanted = serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "one", "namespace": "a" },
            "spec": { "port": 82, "e\"\n": [true, null, 1.5, "1"] },
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap(), wanted);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
        drop(kept);
        assert_eq!(ports(&folder.open(SERVER).1), [("one", "82")]);
    }

    /// The agent was killed between two writes, or within one.
    #[test]
    fn of_two_versions_the_later_counts_and_half_a_line_is_none() {
        let folder = Folder::new("half");
        let (mut kept, _) = folder.open(SERVER);
        put(&mut kept, "one", 80, None);
        put(&mut kept, "one", 81, None);
        let last = put(&mut kept, "two", 82, None);
        kept.file.set_len(last.at.get() + u64::from(last.length) / 2).unwrap();
        drop(kept);
        let (mut kept, seen) = folder.open(SERVER);
        assert_eq!(ports(&seen), [("one", "81")]);
        put(&mut kept, "three", 83, None);
        drop(kept);
        let (kept, seen) = folder.open(SERVER);
        assert_eq!(ports(&seen), [("one", "81"), ("three", "83")]);
        let live: u64 = seen.values().map(|(_, line)| u64::from(line.length)).sum();
        assert_eq!(kept.live, live);
    }

    #[test]
    fn a_file_that_is_mostly_blank_is_written_anew() {
        let folder = Folder::new("anew");
        let (mut kept, _) = folder.open(SERVER);
        let mut other = put(&mut kept, "other", 1, None);
        let mut line = put(&mut kept, "one", 80, None);
        while !kept.is_wasteful() {
            line = put(&mut kept, "one", 80, Some(line));
        }
        kept.rewrite([&mut other, &mut line].into_iter()).unwrap();
        assert!(!kept.is_wasteful() && fs::metadata(folder.file()).unwrap().len() == kept.end, "{} bytes", kept.end);
        put(&mut kept, "one", 90, Some(line));
        drop(kept);
        assert_eq!(ports(&folder.open(SERVER).1), [("one", "90"), ("other", "1")]);
    }

    #[test]
    fn what_another_api_server_said_is_thrown_away() {
        let folder = Folder::new("other");
        put(&mut folder.open(SERVER).0, "one", 80, None);
        assert!(folder.open("https://198.19.0.2/").1.is_empty());
        assert!(folder.open(SERVER).1.is_empty());
    }
}
