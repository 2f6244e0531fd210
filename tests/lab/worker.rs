//! A thread that stays in namespaces of its own and runs jobs for others there.

use std::{io, sync::mpsc, thread};

type Job = Box<dyn FnOnce() + Send>;

/// The thread. Dropping it ends the thread, after the jobs that wait.
#[derive(Debug)]
pub(crate) struct Worker {
    name: String,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread, which first enters its namespaces; what `enter` gives is returned.
    pub(crate) fn start<T: Send + 'static>(
        name: String,
        enter: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<(Self, T)> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, entered) = mpsc::channel();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            let result = enter();
            let failed = result.is_err();
            // If no receiver is left, there will be no jobs either.
            if ready.send(result).is_err() || failed {
                return;
            }
            inbox.iter().for_each(|job| job());
        })?;
        let entered = entered.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok((Self { name, jobs: Some(jobs), thread: Some(thread) }, entered))
    }

    /// Runs a job in the thread and returns its result. One job at a time.
    ///
    /// # Panics
    /// When the job does.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = answer.send(outcome);
        });
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        assert!(sent, "the thread of {} is gone", self.name);
        match result.recv() {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => panic!("the thread of {} ended in the middle of a job", self.name),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked: jobs are run under catch_unwind.
            let _ = thread.join();
        }
    }
}
