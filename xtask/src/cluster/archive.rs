//! Container images without a container engine: one layer, written as an OCI image layout that `docker load` takes too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::{EntryType, Header};

pub struct Image {
    /// Path in the image, and the file on this machine.
    files: Vec<(String, PathBuf)>,
    entrypoint: String,
    /// References that it is found by.
    names: Vec<String>,
    labels: BTreeMap<String, String>,
}

impl Image {
    /// An image of one static program.
    pub fn of_program(program: &Path, path: &str, names: &[&str]) -> Image {
        Image {
            files: vec![(path.to_owned(), program.to_owned())],
            entrypoint: path.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            labels: BTreeMap::new(),
        }
    }

    /// Adds a label of the image's configuration.
    pub fn label(mut self, name: &str, value: &str) -> Image {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// Writes the image to a file. The same files give the same bytes.
pub fn write(archive: &Path, image: &Image) -> Result<()> {
    let mut blobs = Blobs::default();
    let layer = layer(&image.files)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let layer_digest = sha256(&layer);
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [image.entrypoint], "Labels": image.labels, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    });
    let layer = blobs.add("application/vnd.oci.image.layer.v1.tar", layer);
    let config = blobs.add("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let manifest = blobs.add("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
    let named = |name: &String| {
        let mut manifest = manifest.clone();
        manifest["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        manifest
    };
    let manifests: Vec<Value> = image.names.iter().map(named).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    let path = |blob: &Value| format!("blobs/{}", blob["digest"].as_str().unwrap_or_default().replace(':', "/"));
    let for_docker = json!([{"Config": path(&config), "RepoTags": image.names, "Layers": [path(&layer)]}]);

    let mut files = vec![
        ("oci-layout".to_owned(), json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        ("manifest.json".to_owned(), for_docker.to_string().into_bytes()),
    ];
    files.extend(blobs.blobs);
    let file = File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    let mut tar = tar::Builder::new(file);
    for (path, bytes) in files {
        append(&mut tar, &path, EntryType::Regular, 0o644, &bytes)?;
    }
    tar.into_inner().and_then(|mut file| file.flush()).with_context(|| format!("cannot write {}", archive.display()))
}

/// Content that is found by its hash.
#[derive(Default)]
struct Blobs {
    blobs: Vec<(String, Vec<u8>)>,
}

impl Blobs {
    /// Adds a blob, and gives what other content refers to it by.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        self.blobs.push((format!("blobs/sha256/{digest}"), bytes));
        descriptor
    }
}

fn layer(files: &[(String, PathBuf)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, source) in files {
        let bytes = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let path = Path::new(path.trim_start_matches('/'));
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            append(&mut tar, &format!("{}/", folder.display()), EntryType::Directory, 0o755, &[])?;
        }
        append(&mut tar, &path.display().to_string(), EntryType::Regular, 0o755, &bytes)?;
    }
    Ok(tar.into_inner()?)
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, kind: EntryType, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(u64::try_from(bytes.len())?);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("cannot write {path} of an image"))
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn files(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        let read = |entry: std::io::Result<tar::Entry<'_, File>>| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (path, bytes)
        };
        tar.entries().unwrap().map(read).collect()
    }

    #[test]
    fn an_image_is_found_by_its_hashes_and_is_the_same_twice() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "a program").unwrap();
        let image = Image::of_program(&program, "/bin/program", &["localhost/a:1", "localhost/b:2"]);
        let (first, second) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
        write(&first, &image).unwrap();
        write(&second, &image).unwrap();
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());

        let files = files(&first);
        for (path, bytes) in &files {
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(sha256(bytes), digest, "{path}");
            }
        }
        let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(docker[0]["RepoTags"], json!(["localhost/a:1", "localhost/b:2"]));
        let layer = &files[docker[0]["Layers"][0].as_str().unwrap()];
        let config: Value = serde_json::from_slice(&files[docker[0]["Config"].as_str().unwrap()]).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(layer)));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/program"]));
        let mut tar = tar::Archive::new(layer.as_slice());
        let modes: Vec<(String, u32)> = tar
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
            })
            .collect();
        assert_eq!(modes, [("bin/".to_owned(), 0o755), ("bin/program".to_owned(), 0o755)]);
    }
}
