//! Waiting for something to become true, with an end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer; the error of the last question is shown if there never is one.
pub fn wait_for<T>(what: &str, at_most: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + at_most;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => {
                bail!("waited {at_most:?} in vain for {what}: {error:#}");
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Like `wait_for`, for a condition; five seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let check = || if condition() { Ok(()) } else { Err(anyhow::anyhow!("it is still not so")) };
    if let Err(error) = wait_for(what, Duration::from_secs(5), check) {
        panic!("{error:#}");
    }
}
