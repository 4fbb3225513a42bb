//! What the fuzz target `splice` starts from, and what it has found.

use anyhow::{Context, Result, ensure};

use crate::cases::Cases;
use crate::lab::Lab;
use crate::tape::connection;

pub fn add(cases: &mut Cases) {
    cases.one("splice/seeds/each_end_hears_the_other", seeds);
}

fn seeds(lab: &mut Lab) -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/splice");
    let mut seeds = 0;
    for file in std::fs::read_dir(folder).with_context(|| format!("no folder {folder}"))? {
        let path = file?.path();
        connection(lab, &std::fs::read(&path)?).with_context(|| path.display().to_string())?;
        seeds += 1;
    }
    ensure!(seeds > 0, "no seed in {folder}");
    Ok(())
}
