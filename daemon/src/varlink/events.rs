//! What goes on answering: how the engine is, and what happens.

use std::borrow::Borrow;

use futures_util::{StreamExt, stream};
use rootlessd_api::{Error, Event};
use serde_json::{Value, json};

use super::call::Answer;
use crate::{
    events::{Events, Follow, Wanted},
    supervisor::handle::Handle,
};

/// How many events of the history a reply has at most.
const PAGE: usize = 256;
/// How many a call without `more` is answered at most.
const MOST: usize = 1000;

/// The status now and after every change, each with the events since the reply before. A slow reader
/// skips to the newest status, and gets all events.
pub fn watch(handle: &Handle) -> Answer {
    let mut status = handle.watch();
    status.mark_changed();
    let begin = (status, handle.events().follow());
    let replies = stream::unfold(begin, |(mut status, mut follow)| async move {
        let mut events = vec![];
        tokio::select! {
            biased;
            changed = status.changed() => changed.ok()?,
            Some(next) = follow.next() => events = next,
        }
        events.extend(follow.at_hand().await);
        let now = status.borrow_and_update().clone();
        let mut reply = json!({ "status": serde_json::to_value(&*now).ok()? });
        if !events.is_empty() {
            reply["events"] = told(&events);
        }
        Some((reply, (status, follow)))
    });
    Answer::Many(replies.boxed_local())
}

/// The last `limit` of the events that are wanted, in one reply.
pub async fn list(events: &Events, wanted: Wanted, limit: Option<usize>) -> Result<Answer, Error> {
    let newest = events.newest(wanted, limit.unwrap_or(MOST).min(MOST)).await?;
    Ok(Answer::One(json!({ "events": told(&newest) })))
}

/// The same in several replies, and then what happens.
pub async fn follow(
    events: &Events,
    mut wanted: Wanted,
    limit: Option<usize>,
) -> Result<Answer, Error> {
    // Before the history is read, so that nothing falls in between.
    let follow = events.follow();
    if let Some(limit) = limit {
        let first = events.newest(wanted, limit).await?.first().map(|event| event.seq);
        wanted.after = Some(first.map_or(follow.last(), |first| first - 1));
    }
    let mut replies = Replies { events: events.clone(), wanted, follow, is_ready: false };
    let first = replies.page().await?;
    let rest = stream::unfold(replies, |mut replies| async move {
        // A history that cannot be read any more ends the connection.
        Some((replies.next().await?, replies))
    });
    Ok(Answer::Many(stream::iter([first]).chain(rest).boxed_local()))
}

struct Replies {
    events: Events,
    /// What is still wanted of the history.
    wanted: Wanted,
    follow: Follow,
    /// Whether all of the history was told.
    is_ready: bool,
}

impl Replies {
    async fn next(&mut self) -> Option<Value> {
        match self.is_ready {
            false => self.page().await.ok(),
            true => Some(json!({ "events": told(&self.follow.next().await?) })),
        }
    }

    async fn page(&mut self) -> Result<Value, Error> {
        let page = self.events.oldest(self.wanted, self.follow.last(), PAGE).await?;
        self.wanted.after = page.last().map(|event| event.seq).or(self.wanted.after);
        self.is_ready = page.len() < PAGE;
        let mut reply = json!({ "events": told(&page) });
        if self.is_ready {
            reply["ready"] = true.into();
        }
        Ok(reply)
    }
}

/// Events as they are told.
fn told<E: Borrow<Event>>(events: &[E]) -> Value {
    events.iter().filter_map(|event| serde_json::to_value(event.borrow()).ok()).collect()
}
