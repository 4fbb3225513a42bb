//! Threads that each hold a network namespace and the loaded object. Loading takes longer than most tests, so tests
//! share a lab one after the other; it is emptied before each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use anyhow::Result;

use crate::lab::Lab;
use crate::net;

type Case = Box<dyn FnOnce(&mut Lab) -> Result<()> + Send>;
/// A test, and where its failure goes.
type Job = (Case, mpsc::Sender<Result<(), String>>);

pub struct Pool {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    pub fn new(threads: usize) -> Arc<Pool> {
        let (sender, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let workers = (0..threads).map(|_| {
            std::thread::spawn({
                let receiver = receiver.clone();
                move || work(&receiver)
            })
        });
        Arc::new(Pool { workers: Mutex::new(workers.collect()), jobs: Mutex::new(Some(sender)) })
    }

    /// Runs a test in one of the labs.
    pub fn run(&self, case: impl FnOnce(&mut Lab) -> Result<()> + Send + 'static) -> Result<(), String> {
        let (done, result) = mpsc::channel();
        let jobs = self.jobs.lock().map_err(|_| "the pool is broken")?.clone().ok_or("the pool is closed")?;
        jobs.send((Box::new(case), done)).map_err(|_| "no lab is left")?;
        result.recv().map_err(|_| "the lab's thread ended")?
    }

    /// Ends the threads and their namespaces with them.
    pub fn close(&self) {
        self.jobs.lock().expect("nothing panics while it holds this").take();
        for worker in self.workers.lock().expect("nothing panics while it holds this").drain(..) {
            let _ = worker.join();
        }
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    let mut lab: Option<Result<Lab, String>> = None;
    loop {
        let job = jobs.lock().expect("nothing panics while it holds this").recv();
        let Ok((case, done)) = job else { return };
        let lab = lab.get_or_insert_with(|| net::enter().and_then(|()| Lab::new()).map_err(|e| format!("{e:#}")));
        let result = match lab {
            Ok(lab) => run(lab, case),
            Err(error) => Err(error.clone()),
        };
        // The test's thread waits for this; should it be gone, so is who wanted to know.
        let _ = done.send(result);
    }
}

fn run(lab: &mut Lab, case: Case) -> Result<(), String> {
    lab.reset().map_err(|e| format!("cannot empty the maps: {e:#}"))?;
    match catch_unwind(AssertUnwindSafe(|| case(lab))) {
        Ok(result) => result.map_err(|e| format!("{e:#}")),
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_else(|| "a panic without a message".into())),
    }
}
