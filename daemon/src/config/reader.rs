//! Reading the configuration without being held up by it.

use std::{fmt, rc::Rc, sync::Arc, time::Duration};

use rootlessd_api::{Error, ErrorKind};
use tokio::{
    sync::Mutex,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{Loaded, load};
use crate::dirs::{Dirs, Environment};

/// How long the files may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);

type Read = dyn Fn() -> Result<Loaded, Error> + Send + Sync;
type Reading = JoinHandle<Result<Loaded, Error>>;

/// Reads the configuration in a thread of its own: the home directory may be on a file system that
/// does not answer. A thread that hangs is waited for again, so that there is never a second one.
#[derive(Clone)]
pub struct Reader {
    read: Arc<Read>,
    at_work: Rc<Mutex<Option<Reading>>>,
}

impl Reader {
    /// A reader of what `read` reads.
    pub fn new(read: impl Fn() -> Result<Loaded, Error> + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), at_work: Rc::default() }
    }

    /// A reader of a user's configuration.
    pub fn of(dirs: Dirs, environment: Environment) -> Self {
        Self::new(move || load(&dirs, &environment))
    }

    /// Read it.
    pub async fn read(&self) -> Result<Loaded, Error> {
        let mut at_work = self.at_work.lock().await;
        // Left over from a call that was dropped, and older than what is asked for.
        at_work.take_if(|reading| reading.is_finished());
        let reading = at_work.get_or_insert_with(|| {
            let read = self.read.clone();
            spawn_blocking(move || read())
        });
        let result = timeout(PATIENCE, reading).await.map_err(|_| {
            Error::new(
                ErrorKind::Config,
                "the configuration cannot be read: the file system that it is on does not answer",
            )
        })?;
        *at_work = None;
        result.unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, error.to_string())))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_fault_of_ours_is_told_as_one() {
        let reader = Reader::new(|| panic!("a test of what happens then"));
        assert_eq!(reader.read().await.unwrap_err().kind, ErrorKind::Internal);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_file_system_that_does_not_answer_costs_one_thread() {
        let (answer, answered) = mpsc::channel();
        let (answered, begun) = (Mutex::new(answered), Arc::new(AtomicU32::new(0)));
        let counted = begun.clone();
        let reader = Reader::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            answered.lock().unwrap().recv().unwrap()
        });
        // Time stands still while a thread is at work, unless somebody makes it go on.
        for _ in 0..3 {
            let read = reader.read();
            tokio::pin!(read);
            assert!(futures_util::poll!(&mut read).is_pending());
            tokio::time::advance(PATIENCE).await;
            assert_eq!(read.await.unwrap_err().kind, ErrorKind::Config);
        }
        answer.send(Ok(Loaded::default())).unwrap();
        reader.read().await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        answer.send(Err(Error::new(ErrorKind::Config, "why"))).unwrap();
        assert_eq!(reader.read().await.unwrap_err().message, "why");
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
