//! Writing files while the next ones are computed.
//!
//! A file that is to outlast a loss of power takes two syncs ([`super::atomic`]), 5 to 20 ms each, in which its
//! thread only waits. A stage that writes a file an image hands them to a few threads of their own.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::{Error, Result};

/// What writes one image's files.
pub type Job<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

/// Threads that write: enough to overlap their syncs, which the file system joins.
const THREADS: usize = 4;
/// Jobs that wait for a thread at most, so that memory stays bounded where the disk is slow.
const WAITING: usize = 8;

/// Takes jobs for the threads that write.
pub struct Writers<'a, 'w> {
    jobs: SyncSender<Job<'a>>,
    failure: &'w Mutex<Option<Error>>,
}

impl<'a> Writers<'a, '_> {
    /// Hands a job over; waits where many are waiting already.
    ///
    /// # Errors
    /// An earlier job has failed; [`writing_in_background`] then returns that job's error instead of this one.
    pub fn submit(&self, job: Job<'a>) -> Result<()> {
        let failed = lock(self.failure).is_some();
        if failed || self.jobs.send(job).is_err() {
            return Err(Error::invalid("an earlier file could not be written"));
        }
        Ok(())
    }
}

/// Runs `work`, which may hand over jobs, and returns when all of them are done, those of a `work` that failed
/// or was interrupted too: what was finished is kept. After a job's failure no other is begun.
///
/// # Errors
/// The first failure of a job, else that of `work`.
pub fn writing_in_background<'a, T>(work: impl FnOnce(&Writers<'a, '_>) -> Result<T>) -> Result<T> {
    let (jobs, receiver) = sync_channel::<Job<'a>>(WAITING);
    let (receiver, failure) = (Mutex::new(receiver), Mutex::new(None));
    let result = std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    // Bound first: a guard within the condition would be held during the job.
                    let job = lock(&receiver).recv();
                    let Ok(job) = job else { return };
                    if lock(&failure).is_none()
                        && let Err(error) = job()
                    {
                        lock(&failure).get_or_insert(error);
                    }
                }
            });
        }
        // Dropped with the sender at the end, which ends the threads.
        let writers = Writers { jobs, failure: &failure };
        work(&writers)
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => result,
    }
}

/// What a mutex guards. A thread that panicked leaves nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_job_is_done_before_the_return_even_where_the_work_fails() {
        for fails in [false, true] {
            let done = AtomicUsize::new(0);
            let result = writing_in_background(|writers| {
                for _ in 0..100 {
                    writers.submit(Box::new(|| {
                        std::thread::yield_now();
                        done.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }))?;
                }
                if fails { Err(Error::invalid("the work")) } else { Ok(7) }
            });
            assert_eq!(done.into_inner(), 100);
            match result {
                Ok(seven) => assert!(!fails && seven == 7),
                Err(error) => assert!(fails && error.to_string().contains("the work")),
            }
        }
    }

    #[test]
    fn a_job_that_fails_is_the_error_and_stops_the_work() {
        let begun = AtomicUsize::new(0);
        let error = writing_in_background(|writers| -> Result<()> {
            for i in 0.. {
                writers.submit(Box::new({
                    let begun = &begun;
                    move || {
                        begun.fetch_add(1, Ordering::Relaxed);
                        if i == 3 { Err(Error::invalid("the disk")) } else { Ok(()) }
                    }
                }))?;
            }
            Ok(())
        });
        assert!(error.unwrap_err().to_string().contains("the disk"));
        assert!(begun.into_inner() <= 4 + THREADS + WAITING);
    }
}
