//! What is written down of a cluster while it is made, so that another process can find it, or clear up what is left of it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cgroups;
use super::life::Life;

/// The folder of a cluster: what it wrote, and in `places` the processes that hold its namespaces.
pub struct State {
    folder: PathBuf,
}

impl State {
    pub fn at(folder: &Path) -> State {
        State { folder: folder.to_owned() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn places_file(&self) -> PathBuf {
        self.folder.join("places")
    }

    /// Name and first process of each place, in the order they were made; none if there is no cluster.
    pub fn places(&self) -> Result<Vec<(String, Life)>> {
        let path = self.places_file();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // A line that was cut off belongs to a place that was not let go on.
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.filter_map(|(name, life)| Some((name.to_owned(), life.parse().ok()?))).collect())
    }

    pub fn record(&self, name: &str, life: &Life) -> Result<()> {
        let path = self.places_file();
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        // In one piece: nodes begin at once, each by a thread.
        let line = format!("{name} {life}\n");
        file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Ends every process, and removes what they leave. Where nothing is left, nothing happens.
    pub fn clear(&self) -> Result<()> {
        let places = self.places()?;
        for (name, life) in places.iter().rev() {
            life.end().with_context(|| format!("{name} does not end"))?;
        }
        if let Some((_, control)) = places.first() {
            cgroups::remove(control)?;
        }
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_begin_at_once_are_all_known() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path());
        let life = Life::of(std::process::id()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let state = &state;
                scope.spawn(move || (0..200).for_each(|i| state.record(&format!("{thread}-{i}"), &life).unwrap()));
            }
        });
        let mut names: Vec<String> = state.places().unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 800);
    }
}
