//! A server on a thread that belongs to a node.

use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use super::node::Node;
use crate::server::{Options, Server};

/// Serves until it is dropped.
pub struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Binds before it returns: whoever connects from now on is heard.
    pub fn start(node: &Node, options: Options) -> Result<Serving> {
        let network = node.network()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let run = || -> Result<()> {
                network.join()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let _entered = runtime.enter();
                let server = Server::bind(options)?;
                bound.send(Ok(()))?;
                runtime.block_on(async {
                    tokio::select! {
                        served = server.serve() => served?,
                        _ = stopped => {}
                    }
                    Ok(())
                })
            };
            // After it was bound nobody listens any more, and nothing fails.
            let _ = run().map_err(|error| bound.send(Err(error)));
        });
        is_bound.recv().context("the server's thread has died")?.with_context(|| format!("on node {}", node.name()))?;
        Ok(Serving { stop: Some(stop), thread: Some(thread) })
    }

    /// The plain server of tests: TCP and UDP on `port`, DNS nowhere.
    pub fn plain(node: &Node, port: u16) -> Result<Serving> {
        Serving::start(node, Options { name: node.name().to_owned(), tcp: port, udp: port, ..Options::default() })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
