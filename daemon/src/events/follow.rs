//! A follower of events: it misses none that is recorded, and nobody waits for it.

use std::sync::Arc;

use rootlessd_api::Event;
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};

use super::{Events, Wanted};

/// How many events a follower that fell behind reads of the history at a time.
const PAGE: usize = 128;

/// The events from some moment on.
#[derive(Debug)]
pub struct Follow {
    events: Events,
    news: Receiver<Arc<Event>>,
    /// The number of the last that was taken.
    last: u64,
    /// One that others should come before.
    early: Option<Arc<Event>>,
    /// Whether some were dropped for this follower, and have to be read.
    is_behind: bool,
}

impl Follow {
    pub(super) const fn new(events: Events, news: Receiver<Arc<Event>>, last: u64) -> Self {
        Self { events, news, last, early: None, is_behind: false }
    }

    /// The number of the last event before the next.
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// The next events, when there are any; `None` once there will be no more. Cancelling it loses
    /// none.
    pub async fn next(&mut self) -> Option<Vec<Arc<Event>>> {
        loop {
            let missed = self.missed().await;
            if !missed.is_empty() {
                return Some(missed);
            }
            match self.news.recv().await {
                Ok(event) => {
                    if let Some(event) = self.take(event) {
                        return Some(vec![event]);
                    }
                }
                Err(RecvError::Lagged(_)) => self.is_behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// What of it is there already.
    pub async fn at_hand(&mut self) -> Vec<Arc<Event>> {
        let mut at_hand = vec![];
        loop {
            at_hand.extend(self.missed().await);
            match self.news.try_recv() {
                Ok(event) => at_hand.extend(self.take(event)),
                Err(TryRecvError::Lagged(_)) => self.is_behind = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) if self.is_behind => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return at_hand,
            }
        }
    }

    /// An event, if it is the next one.
    fn take(&mut self, event: Arc<Event>) -> Option<Arc<Event>> {
        if event.seq <= self.last {
            return None;
        }
        if event.seq > self.last + 1 {
            self.early = Some(event);
            self.is_behind = true;
            return None;
        }
        self.last = event.seq;
        Some(event)
    }

    /// What was dropped, from the history.
    async fn missed(&mut self) -> Vec<Arc<Event>> {
        if !self.is_behind {
            return vec![];
        }
        let wanted = Wanted { after: Some(self.last), ..Wanted::default() };
        // What cannot be read is told where it is written.
        let read = self.events.oldest(wanted, u64::MAX, PAGE).await.unwrap_or_default();
        let mut missed: Vec<_> = read.into_iter().map(Arc::new).collect();
        self.is_behind = missed.len() == PAGE;
        if !self.is_behind {
            let last = missed.last().map_or(self.last, |event| event.seq);
            missed.extend(self.early.take().filter(|event| event.seq > last));
        }
        self.last = missed.last().map_or(self.last, |event| event.seq);
        missed
    }
}
