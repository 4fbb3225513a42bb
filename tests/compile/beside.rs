//! PEM files beside the manifests that stand for data of Secrets and ConfigMaps.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gateway_agent::index::{Change, Object};
use gateway_agent::ir::Certificate;
use gateway_agent::source::files::{Batch, Watcher, load_dir};
use gateway_agent::source::{Problem, Severity};
use gateway_tests::tls::{Authority, Identity};
use tokio::sync::mpsc::Receiver;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(10);

const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata:
  name: shop
  annotations:
    sluice.dev/tls-crt-file: shop.pem
    sluice.dev/tls-key-file: shop.key
type: kubernetes.io/tls
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {ports: [{port: 1}]}
";
const CONFIG_MAP: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, annotations: {sluice.dev/ca-crt-file: ca.pem}}
";

struct Files {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Files {
        Files {
            directory: tempfile::tempdir().expect("a directory"),
            authority: Authority::new().expect("an authority"),
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).expect("a file");
    }

    /// In one step, as a careful program does.
    fn put(&self, name: &str, from: &Path) {
        std::fs::copy(from, self.path().join(".new")).expect("a copy");
        std::fs::rename(self.path().join(".new"), self.path().join(name)).expect("a file");
    }

    fn identity(&self, name: &str) -> Identity {
        self.authority.identity(name, &["shop.test"]).expect("a certificate")
    }

    fn put_both(&self, identity: &Identity) {
        self.put("shop.pem", &identity.certificate_file);
        self.put("shop.key", &identity.key_file);
    }
}

fn certificate(object: &Object) -> Option<&Result<Arc<Certificate>, Box<str>>> {
    if let Object::Secret(secret) = object { Some(&secret.certificate) } else { None }
}

/// What the Secrets of these objects hold.
fn certificates(objects: &[Object]) -> Vec<Result<Vec<u8>, String>> {
    let found = objects.iter().filter_map(certificate);
    found.map(|found| found.as_ref().map(|c| c.chain[0].clone()).map_err(ToString::to_string)).collect()
}

fn der(identity: &Identity) -> Vec<u8> {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_file(&identity.certificate_file).expect("a certificate").to_vec()
}

fn errors(problems: &[Problem]) -> Vec<String> {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    errors.map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
}

#[test]
fn files_stand_for_data() {
    let files = Files::new();
    let identity = files.identity("a");
    files.write("secret.yaml", SECRET);
    files.write("ca.yaml", CONFIG_MAP);
    files.put_both(&identity);
    files.put("ca.pem", &files.authority.file());
    let loaded = load_dir(files.path()).unwrap();
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    assert_eq!(certificates(&loaded.objects), [Ok(der(&identity))]);
    let map = loaded.objects.iter().find_map(|o| if let Object::ConfigMap(map) = o { Some(map) } else { None });
    assert_eq!(map.unwrap().authorities.as_ref().unwrap().certificates.len(), 1);
}

#[test]
fn what_is_wrong_is_said_with_object_field_and_file() {
    let files = Files::new();
    let (a, b) = (files.identity("a"), files.identity("b"));
    files.write("secret.yaml", SECRET);
    let said = || {
        let loaded = load_dir(files.path()).unwrap();
        let secret = certificates(&loaded.objects).into_iter().next().expect("the Secret is there all the same");
        let [error] = &errors(&loaded.problems)[..] else { panic!("{:?}", loaded.problems) };
        assert!(loaded.problems.iter().all(|p| p.object.as_ref().unwrap().to_string() == "Secret default/shop"));
        let (field, message) = error.split_once(": ").unwrap();
        assert_eq!((field, Err(message.to_owned())), ("metadata.annotations[sluice.dev/tls-key-file]", secret));
        message.to_owned()
    };
    assert!(said().contains("there is no file shop.pem beside this one"));
    files.put("shop.pem", &a.certificate_file);
    assert!(said().contains("there is no file shop.key"));
    files.put("shop.key", &b.key_file);
    assert_eq!(said(), "shop.key does not belong to the first certificate in shop.pem");
    files.write("shop.key", "-----BEGIN PRIVATE KEY-----\nMIG");
    assert!(said().starts_with("shop.key is broken"));
    files.write("shop.key", vec![b' '; (1 << 20) + 1]);
    assert!(said().starts_with("shop.key has 1048577 bytes"));
    std::fs::remove_file(files.path().join("shop.key")).unwrap();
    std::fs::create_dir(files.path().join("shop.key")).unwrap();
    assert!(said().contains("there is no file shop.key"));
}

#[test]
fn only_files_of_the_directory_itself_are_read() {
    let files = Files::new();
    files.put_both(&files.identity("a"));
    for name in ["/etc/shop.pem", "../shop.pem", "sub/shop.pem", ".shop.pem", "..", "", "secret.yaml", "shop.json"] {
        files.write("secret.yaml", SECRET.replace("shop.pem", &format!("'{name}'")));
        let loaded = load_dir(files.path()).unwrap();
        let [error] = &errors(&loaded.problems)[..] else { panic!("{name}: {:?}", loaded.problems) };
        assert!(error.starts_with("metadata.annotations[sluice.dev/tls-crt-file]:"), "{error}");
        assert!(certificates(&loaded.objects).is_empty(), "{name}");
    }
}

#[test]
fn data_and_a_file_for_it_are_one_too_many() {
    let files = Files::new();
    files.put_both(&files.identity("a"));
    files.write("secret.yaml", SECRET.replacen("type:", "stringData: {tls.crt: x}\ntype:", 1));
    let loaded = load_dir(files.path()).unwrap();
    let [error] = &errors(&loaded.problems)[..] else { panic!("{:?}", loaded.problems) };
    assert!(error.contains("sluice.dev/tls-crt-file names a file for it"), "{error}");
}

struct Watched {
    files: Files,
    batches: Receiver<Batch>,
}

impl Watched {
    fn new(identity: impl Fn(&Files) -> Identity) -> Watched {
        let files = Files::new();
        files.write("secret.yaml", SECRET);
        files.put_both(&identity(&files));
        let (loaded, batches) = Watcher::start(files.path().to_owned()).expect("a watch");
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        Watched { files, batches }
    }

    async fn next(&mut self) -> Batch {
        tokio::time::timeout(SOON, self.batches.recv()).await.expect("a change in time").expect("a watcher")
    }

    /// The certificate that is in force in the end, and the problems then; nothing else changes on the way.
    async fn settle(&mut self, good: &Identity) -> Vec<String> {
        loop {
            let Batch { changes, problems } = self.next().await;
            let Some(change) = changes.into_iter().next() else { continue };
            let Change::Set(object) = change else { panic!("{change:?}") };
            assert_eq!(certificates(&[object]), [Ok(der(good))]);
            return errors(&problems);
        }
    }
}

#[tokio::test]
async fn a_pair_that_is_replaced_file_by_file_is_one_change() {
    let mut watched = Watched::new(|files| files.identity("a"));
    let b = watched.files.identity("b");
    watched.files.put("shop.pem", &b.certificate_file);
    // Half of it: what was stays in force, and it is said why.
    let half = watched.next().await;
    assert!(half.changes.is_empty(), "{:?}", half.changes);
    let wrong =
        "metadata.annotations[sluice.dev/tls-key-file]: shop.key does not belong to the first certificate in shop.pem";
    assert_eq!(errors(&half.problems), [wrong]);
    let kept = half.problems.iter().any(|problem| problem.message.contains("last good version stays in force"));
    assert!(kept, "{:?}", half.problems);
    watched.files.put("shop.key", &b.key_file);
    assert_eq!(watched.settle(&b).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_file_half_written_or_gone_changes_nothing() {
    let mut watched = Watched::new(|files| files.identity("a"));
    let whole = std::fs::read(watched.files.path().join("shop.key")).unwrap();
    watched.files.write("shop.key", &whole[..whole.len() / 2]);
    let batch = watched.next().await;
    assert!(batch.changes.is_empty() && errors(&batch.problems).len() == 1, "{batch:?}");
    std::fs::remove_file(watched.files.path().join("shop.key")).unwrap();
    let batch = watched.next().await;
    assert!(batch.changes.is_empty(), "{batch:?}");
    assert!(errors(&batch.problems)[0].contains("there is no file shop.key"), "{batch:?}");
    // As it was: nothing has changed, and nothing is wrong.
    watched.files.write("shop.key", &whole);
    let batch = watched.next().await;
    assert!(batch.changes.is_empty() && batch.problems.is_empty(), "{batch:?}");
}

#[tokio::test]
async fn a_mounted_volume_changes_all_at_once() {
    let files = Files::new();
    let (a, b) = (files.identity("a"), files.identity("b"));
    let fill = |version: &str, identity: &Identity| {
        let directory = files.path().join(version);
        std::fs::create_dir(&directory).unwrap();
        std::fs::copy(&identity.certificate_file, directory.join("shop.pem")).unwrap();
        std::fs::copy(&identity.key_file, directory.join("shop.key")).unwrap();
        std::fs::write(directory.join("secret.yaml"), SECRET).unwrap();
    };
    fill("..1", &a);
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, files.path().join(name)).expect("a file");
    link("..1", "..data");
    for name in ["shop.pem", "shop.key", "secret.yaml"] {
        link(&format!("..data/{name}"), name);
    }
    let (loaded, batches) = Watcher::start(files.path().to_owned()).expect("a watch");
    assert_eq!(certificates(&loaded.objects), [Ok(der(&a))]);
    fill("..2", &b);
    link("..2", "..data_tmp");
    std::fs::rename(files.path().join("..data_tmp"), files.path().join("..data")).unwrap();
    let mut watched = Watched { files, batches };
    assert_eq!(watched.settle(&b).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_manifest_and_its_files_may_come_in_any_order() {
    let files = Files::new();
    let (_, batches) = Watcher::start(files.path().to_owned()).expect("a watch");
    let mut watched = Watched { files, batches };
    let a = watched.files.identity("a");
    watched.files.write("secret.yaml", SECRET);
    let first = watched.next().await;
    assert_eq!(errors(&first.problems).len(), 1, "{first:?}");
    watched.files.put("shop.key", &a.key_file);
    watched.files.put("shop.pem", &a.certificate_file);
    loop {
        let batch = watched.next().await;
        let objects: Vec<Object> =
            batch.changes.into_iter().filter_map(|c| if let Change::Set(o) = c { Some(o) } else { None }).collect();
        if certificates(&objects) == [Ok(der(&a))] {
            return assert!(batch.problems.is_empty(), "{:?}", batch.problems);
        }
    }
}
