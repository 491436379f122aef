//! What happened: derived from the status, recorded, and told to whoever follows.
//!
//! [`news()`](news::news) compares a status with what was [`Told`] so far, and says what is new. What
//! was told is nothing but the events themselves, one after the other, so that a rootlessd that
//! comes after another reads it from the [`history`], and tells what happened meanwhile exactly once.

mod follow;
pub mod history;
mod log;
mod news;
mod recorder;
#[cfg(test)]
mod tests;
mod told;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rootlessd_api::{Error, ErrorKind, Event};
use tokio::{sync::broadcast, task::spawn_blocking};

use self::history::History;
pub use self::{follow::Follow, recorder::Recorder, told::Told};

/// How many events a follower may be behind before it reads the history instead.
const KEPT: usize = 128;

/// The events, for whoever wants to know of them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The number of the newest.
    newest: AtomicU64,
    news: broadcast::Sender<Arc<Event>>,
    history: History,
}

/// Which events of the history are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Those that happened then or later, in µs of CLOCK_REALTIME.
    pub since: Option<u64>,
    /// Those with a greater number.
    pub after: Option<u64>,
}

impl Wanted {
    fn has(&self, event: &Event) -> bool {
        self.since.is_none_or(|since| event.at >= since)
            && self.after.is_none_or(|after| event.seq > after)
    }
}

impl Events {
    /// With a history in `directory`, whose newest has the number `newest`.
    pub fn new(directory: PathBuf, newest: u64) -> Self {
        let (news, _) = broadcast::channel(KEPT);
        let (newest, history) = (AtomicU64::new(newest), History::new(directory));
        Self(Arc::new(Shared { newest, news, history }))
    }

    /// Follow what happens from now on.
    pub fn follow(&self) -> Follow {
        Follow::new(self.clone(), self.0.news.subscribe(), self.0.newest.load(Ordering::Acquire))
    }

    /// The last `count` of those that are wanted.
    pub async fn newest(&self, wanted: Wanted, count: usize) -> Result<Vec<Event>, Error> {
        let select = move |events: &mut dyn Iterator<Item = Event>| {
            rootlessd_api::history::newest(events.filter(|event| wanted.has(event)), count)
        };
        self.select(select).await
    }

    /// The first `count` of those that are wanted, up to the number `last`.
    pub async fn oldest(
        &self,
        wanted: Wanted,
        last: u64,
        count: usize,
    ) -> Result<Vec<Event>, Error> {
        let select = move |events: &mut dyn Iterator<Item = Event>| {
            events.take_while(|it| it.seq <= last).filter(|it| wanted.has(it)).take(count).collect()
        };
        self.select(select).await
    }

    /// Have everything written that is known.
    pub async fn flush(&self) {
        let shared = self.0.clone();
        // It is told where it is written that it cannot be.
        let _ = spawn_blocking(move || shared.history.write()).await;
    }

    async fn select(
        &self,
        select: impl FnOnce(&mut dyn Iterator<Item = Event>) -> Vec<Event> + Send + 'static,
    ) -> Result<Vec<Event>, Error> {
        let shared = self.0.clone();
        let read = spawn_blocking(move || shared.history.read().map(|mut all| select(&mut all)));
        read.await.map_err(io::Error::other).flatten().map_err(|error| {
            let directory = self.0.history.directory().display();
            let text = format!("the history in {directory} cannot be read: {error}");
            let remedy = "rootlessctl logs --part supervisor shows what happened, too";
            Error::new(ErrorKind::System, text).with_remedy(remedy)
        })
    }

    /// Record an event, and tell it to those who follow.
    fn tell(&self, event: Event) {
        self.0.newest.store(event.seq, Ordering::Release);
        if self.0.history.push(event.clone()) {
            // Beside everything else: a disk may take its time, and a full one for ever.
            let shared = self.0.clone();
            spawn_blocking(move || shared.history.write());
        }
        // It is no error that nobody follows.
        let _ = self.0.news.send(Arc::new(event));
    }
}
