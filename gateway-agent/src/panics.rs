//! A panic is a defect. In a thread that serves connections it costs the connection that met it, and is counted; anywhere else the agent
//! ends, and is started anew: what it would go on with might be half a state.

#![forbid(unsafe_code)]

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

/// The names of threads that serve connections begin so.
pub const THREAD_OF_CONNECTIONS: &str = "proxy-";

static OUTLIVED: AtomicU64 = AtomicU64::new(0);

/// How many there were.
pub fn outlived() -> u64 {
    OUTLIVED.load(Ordering::Relaxed)
}

/// From here on.
pub fn tell() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        report(panic, thread);
        if !thread.starts_with(THREAD_OF_CONNECTIONS) {
            std::process::abort();
        }
        OUTLIVED.fetch_add(1, Ordering::Relaxed);
    }));
}

fn report(panic: &PanicHookInfo<'_>, thread: &str) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    tracing::error!(thread, place, "panicked: {message}; this is a defect of Sluice, please report it");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        tracing::error!("{trace}");
    }
}

/// Held by a thread that nothing goes on without.
pub struct Needed;

impl Drop for Needed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Does it, and fails if anything panicked in this thread meanwhile: what the runtime runs beside a test is caught by it.
#[cfg(test)]
pub fn none_in<T>(work: impl FnOnce() -> T) -> T {
    use std::cell::Cell;
    use std::sync::Once;

    thread_local!(static HERE: Cell<u64> = const { Cell::new(0) });
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            HERE.set(HERE.get() + 1);
            before(panic);
        }));
    });
    let before = HERE.get();
    let done = work();
    assert_eq!(HERE.get(), before, "something panicked beside the test");
    done
}
