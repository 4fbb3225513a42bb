//! Ctrl-C and SIGTERM: the bench stops by itself, so that everything it made goes as it does at its end. A second one ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

static CAME: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on signals are noted.
pub fn watch() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // In this order: the flag that a first signal sets lets a second one end us.
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&CAME))
            .and_then(|_| flag::register(signal, Arc::clone(&CAME)))
            .context("cannot watch for signals")?;
    }
    Ok(())
}

/// Whether we are to stop.
pub fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}
