//! The watched directory: what comes out when files come, change and go.

use std::path::Path;
use std::time::Duration;

use gateway_agent::index::{Change, Kind, Object};
use gateway_agent::source::Severity;
use gateway_agent::source::files::{Batch, Loaded, Watcher};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// Long enough for a change that must not come.
const QUIET: Duration = Duration::from_millis(150);

fn service(name: &str, port: u32) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n  - port: {port}\n")
}

struct Watched {
    dir: TempDir,
    loaded: Loaded,
    batches: Receiver<Batch>,
}

impl Watched {
    fn new(files: &[(&str, &str)]) -> Watched {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("a file");
        }
        let (loaded, batches) = Watcher::start(dir.path().join("")).expect("a watch");
        Watched { dir, loaded, batches }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn rename_into_place(&self, name: &str, text: &str) {
        self.write(".new", text);
        std::fs::rename(self.path(".new"), self.path(name)).expect("a rename");
    }

    async fn next(&mut self) -> Batch {
        tokio::time::timeout(SOON, self.batches.recv()).await.expect("a change in time").expect("a watcher")
    }

    async fn quiet(&mut self) {
        let batch = tokio::time::timeout(QUIET, self.batches.recv()).await;
        assert!(batch.is_err(), "nothing should have changed: {batch:?}");
    }
}

/// `+name:port` and `-name`.
fn changes(batch: &Batch) -> Vec<String> {
    let change = |change: &Change| match change {
        Change::Set(Object::Service(service)) => format!("+{}:{}", service.meta.name.name, service.ports[0].port),
        Change::Set(other) => format!("+{}", other.id()),
        Change::Remove(id) => format!("-{}", id.name.name),
        Change::Bundles(_) => unreachable!("files have none"),
    };
    batch.changes.iter().map(change).collect()
}

#[tokio::test]
async fn a_file_renamed_into_place_is_one_change_of_what_it_changes() {
    let both = service("a", 1) + "---\n" + &service("b", 1);
    let mut watched = Watched::new(&[("two.yaml", &both), ("other.yaml", &service("c", 1))]);
    assert_eq!(watched.loaded.objects.len(), 3);
    watched.rename_into_place("two.yaml", &both.replace("port: 1", "port: 2").replacen("port: 2", "port: 1", 1));
    assert_eq!(changes(&watched.next().await), ["+b:2"]);
    watched.quiet().await;
}

#[tokio::test]
async fn a_file_half_written_does_not_count_until_it_is_closed() {
    use std::io::Write;
    let mut watched = Watched::new(&[]);
    let text = service("a", 1);
    let (first, second) = text.split_at(20);
    let mut file = std::fs::File::create(watched.path("a.yaml")).expect("a file");
    file.write_all(first.as_bytes()).expect("a write");
    file.sync_all().expect("a sync");
    watched.quiet().await;
    file.write_all(second.as_bytes()).expect("a write");
    watched.quiet().await;
    drop(file);
    let batch = watched.next().await;
    assert_eq!(changes(&batch), ["+a:1"]);
    assert!(batch.problems.is_empty(), "{:?}", batch.problems);
}

#[tokio::test]
async fn a_file_written_in_place_changes_its_objects() {
    let mut watched = Watched::new(&[("a.yaml", &service("a", 1))]);
    watched.write("a.yaml", &service("b", 2));
    assert_eq!(changes(&watched.next().await), ["-a", "+b:2"]);
}

#[tokio::test]
async fn a_file_deleted_or_moved_away_takes_its_objects_with_it() {
    let mut watched = Watched::new(&[
        ("a.yaml", &service("a", 1)),
        ("b.json", "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"n\"}}"),
    ]);
    std::fs::remove_file(watched.path("a.yaml")).expect("a file");
    assert_eq!(changes(&watched.next().await), ["-a"]);
    std::fs::rename(watched.path("b.json"), watched.path("b.off")).expect("a file");
    assert_eq!(changes(&watched.next().await), ["-n"]);
}

#[tokio::test]
async fn a_file_moved_away_and_written_anew_never_loses_its_objects() {
    use std::io::Write;
    let mut watched = Watched::new(&[("a.yaml", &service("a", 1))]);
    // As vim saves: the old file becomes the backup, the new one is written under its name.
    std::fs::rename(watched.path("a.yaml"), watched.path("a.yaml~")).expect("a rename");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut file = std::fs::File::create(watched.path("a.yaml")).expect("a file");
    file.write_all(&service("a", 2).as_bytes()[..30]).expect("a write");
    watched.quiet().await;
    file.write_all(&service("a", 2).as_bytes()[30..]).expect("a write");
    drop(file);
    let batch = watched.next().await;
    assert_eq!((changes(&batch), batch.problems.len()), (vec!["+a:2".to_owned()], 0));
    // As git and rm do it.
    std::fs::remove_file(watched.path("a.yaml")).expect("a file");
    watched.write("a.yaml", &service("a", 3));
    assert_eq!(changes(&watched.next().await), ["+a:3"]);
    watched.quiet().await;
}

#[tokio::test]
async fn a_mode_set_after_the_file_is_written_hides_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let mut watched = Watched::new(&[("a.yaml", &service("a", 1))]);
    watched.write("a.yaml", &service("a", 2));
    std::fs::set_permissions(watched.path("a.yaml"), std::fs::Permissions::from_mode(0o600)).expect("a mode");
    assert_eq!(changes(&watched.next().await), ["+a:2"]);
    std::fs::remove_file(watched.path("a.yaml")).expect("a file");
    assert_eq!(changes(&watched.next().await), ["-a"]);
}

#[tokio::test]
async fn a_deleted_file_holds_up_no_other() {
    let mut watched = Watched::new(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 1))]);
    std::fs::remove_file(watched.path("a.yaml")).expect("a file");
    watched.write("b.yaml", &service("b", 2));
    assert_eq!(changes(&watched.next().await), ["+b:2"]);
    assert_eq!(changes(&watched.next().await), ["-a"]);
}

#[tokio::test]
async fn a_file_written_as_it_was_changes_nothing() {
    let mut watched = Watched::new(&[("a.yaml", &service("a", 1))]);
    watched.write("a.yaml", &service("a", 1));
    watched.rename_into_place("a.yaml", &service("a", 1));
    watched.write("notes.txt", "nothing");
    watched.write(".a.yaml.swp", "a: [");
    watched.quiet().await;
}

#[tokio::test]
async fn broken_yaml_leaves_the_last_good_version_in_force() {
    let mut watched = Watched::new(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 1))]);
    watched.write("a.yaml", "apiVersion: v1\nkind: [Service\nmetadata: }\n");
    let batch = watched.next().await;
    assert!(batch.changes.is_empty(), "{:?}", batch.changes);
    let problem = batch.problems[0].to_string();
    assert!(problem.contains("a.yaml:") && problem.contains("stays in force"), "{problem}");
    assert!(batch.problems[0].column > 0 && batch.problems[0].origin.line > 1, "{problem}");
    // The other files go on, and the problem stays until it is put right.
    watched.write("b.yaml", &service("b", 2));
    let batch = watched.next().await;
    assert_eq!((changes(&batch), batch.problems.len()), (vec!["+b:2".to_owned()], 1));
    watched.write("a.yaml", &service("a", 3));
    let batch = watched.next().await;
    assert_eq!((changes(&batch), batch.problems.len()), (vec!["+a:3".to_owned()], 0));
}

#[tokio::test]
async fn an_object_gone_wrong_keeps_its_last_good_version_and_blocks_no_other() {
    let mut watched = Watched::new(&[("a.yaml", &(service("a", 1) + "---\n" + &service("b", 1)))]);
    watched.write("a.yaml", &(service("a", 70000) + "---\n" + &service("b", 2)));
    let batch = watched.next().await;
    assert_eq!(changes(&batch), ["+b:2"]);
    let problems: Vec<String> = batch.problems.iter().map(ToString::to_string).collect();
    assert!(problems.iter().any(|p| p.contains("Service default/a: spec.ports[0].port: is 70000")), "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("its last good version stays in force")), "{problems:?}");
    // Without it in the file at all, it goes.
    watched.write("a.yaml", &service("b", 2));
    assert_eq!(changes(&watched.next().await)[0], "-a");
}

#[tokio::test]
async fn of_two_files_with_one_object_the_second_takes_over_when_the_first_goes() {
    let mut watched = Watched::new(&[("a.yaml", &service("s", 1)), ("b.yaml", &service("s", 2))]);
    let ports: Vec<_> = watched.loaded.objects.iter().map(Object::kind).collect();
    assert_eq!(ports, [Kind::Service]);
    let problem = watched.loaded.problems[0].to_string();
    assert!(problem.contains("b.yaml:1: error") && problem.contains("a.yaml:1"), "{problem}");
    // The loser may change as it likes.
    watched.write("b.yaml", &service("s", 3));
    watched.quiet().await;
    std::fs::remove_file(watched.path("a.yaml")).expect("a file");
    let batch = watched.next().await;
    assert_eq!((changes(&batch), batch.problems.len()), (vec!["+s:3".to_owned()], 0));
    watched.write("a.yaml", &service("s", 4));
    assert_eq!(changes(&watched.next().await), ["+s:4"]);
}

#[tokio::test]
async fn a_mounted_config_map_changes_all_at_once() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    for (version, port) in [("..1", 1), ("..2", 2)] {
        std::fs::create_dir(path(version)).expect("a directory");
        for name in ["a", "b"] {
            std::fs::write(path(version).join(format!("{name}.yaml")), service(name, port)).expect("a file");
        }
    }
    symlink("..1", path("..data")).expect("a link");
    symlink("..data/a.yaml", path("a.yaml")).expect("a link");
    symlink("..data/b.yaml", path("b.yaml")).expect("a link");
    let (loaded, batches) = Watcher::start(dir.path().to_owned()).expect("a watch");
    assert_eq!(loaded.objects.len(), 2);
    symlink("..2", path("..data_tmp")).expect("a link");
    std::fs::rename(path("..data_tmp"), path("..data")).expect("a rename");
    let mut watched = Watched { dir, loaded, batches };
    assert_eq!(changes(&watched.next().await), ["+a:2", "+b:2"]);
}

#[tokio::test]
async fn links_count_as_soon_as_they_are_there() {
    let mut watched = Watched::new(&[(".a", &service("a", 1)), (".b", &service("b", 1))]);
    std::os::unix::fs::symlink(watched.path(".a"), watched.path("a.yaml")).expect("a link");
    assert_eq!(changes(&watched.next().await), ["+a:1"]);
    std::fs::hard_link(watched.path(".b"), watched.path("b.yaml")).expect("a link");
    assert_eq!(changes(&watched.next().await), ["+b:1"]);
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_back_is_followed() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("manifests");
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("a.yaml"), service("a", 1)).expect("a file");
    let (loaded, batches) = Watcher::start(dir.clone()).expect("a watch");
    let mut watched = Watched { dir: parent, loaded, batches };
    std::fs::rename(&dir, watched.path("elsewhere")).expect("a rename");
    let batch = watched.next().await;
    assert!(batch.changes.is_empty(), "{:?}", batch.changes);
    assert_eq!(batch.problems[0].severity, Severity::Error);
    assert!(batch.problems[0].to_string().contains("stays in force"), "{}", batch.problems[0]);
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("a.yaml"), service("a", 2)).expect("a file");
    let batch = watched.next().await;
    assert_eq!((changes(&batch), batch.problems.len()), (vec!["+a:2".to_owned()], 0));
    std::fs::write(dir.join("a.yaml"), service("a", 3)).expect("a file");
    assert_eq!(changes(&watched.next().await), ["+a:3"]);
}

#[tokio::test]
async fn many_files_at_once_lose_nothing() {
    let mut watched = Watched::new(&[]);
    for i in 0..500 {
        watched.rename_into_place(&format!("{i}.yaml"), &service(&format!("s{i}"), 1));
    }
    let mut seen = 0;
    while seen < 500 {
        seen += watched.next().await.changes.len();
    }
    assert_eq!(seen, 500);
}

#[tokio::test]
async fn what_cannot_be_watched_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("file"), "").expect("a file");
    let start = |path: &Path| Watcher::start(path.to_owned()).map(|_| ()).expect_err("no directory").to_string();
    assert!(start(&dir.path().join("gone")).contains("create it"));
    assert!(start(&dir.path().join("file")).contains("name the directory"));
}
