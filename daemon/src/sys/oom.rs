//! Whether the kernel killed a process since memory ran out.
//!
//! It counts such ends: in a cgroup (`oom_kill` of `memory.events`, and in version 1 of
//! `memory.oom_control`, for whatever ran out, a limit or the machine) and on the whole machine
//! (`oom_kill` of `/proc/vmstat`, since Linux 4.13). Where the group has no memory controller, only the
//! last is to be had, which tells that there was such an end, not whose.
//!
//! Others are in the group too, and what was counted for one of them long ago says nothing of an end now.
//! So each change of `memory.events` is taken when it comes; of the others the kernel tells none.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    fs,
    future::{pending, poll_fn},
    io,
    path::{Path, PathBuf},
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};

use super::cgroup;

/// Ends within this time are taken for one. It takes a while to end who has much memory.
const TOGETHER: Duration = Duration::from_secs(1);
/// What was counted since a look that is longer ago can be anybody's. While containers run engine-init
/// looks more often.
const RECENT: Duration = Duration::from_secs(5);

/// What is known of an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oom {
    /// Memory had nothing to do with it.
    #[default]
    No,
    /// The kernel killed somebody for memory meanwhile, who need not be this one.
    Perhaps,
    /// The kernel killed somebody in this cgroup for memory meanwhile.
    Yes,
}

impl Oom {
    /// Goes on with "it was killed by SIGKILL".
    pub const fn describe(self) -> &'static str {
        match self {
            Self::No => "",
            Self::Perhaps => ", perhaps by the kernel for memory (oom), as somebody here was",
            Self::Yes => ", by the kernel for memory (oom)",
        }
    }
}

/// How many were killed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    /// In the group; `None` where nobody counts.
    group: Option<u64>,
    machine: Option<u64>,
}

/// The ends that there were for memory, to be compared with those that there were before.
#[derive(Debug)]
pub struct OomKills {
    events: Option<PathBuf>,
    before: Cell<Count>,
    /// When that was counted.
    counted: Cell<Instant>,
    /// Tells of changes, where the kernel does.
    changes: RefCell<Option<EventStream<[u8; 1024]>>>,
    /// What was found last, and when.
    last: Cell<Option<(Oom, Instant)>>,
}

impl OomKills {
    /// From now on, in the group that this process is in. Needs a runtime.
    pub fn from_now() -> Self {
        Self::of(cgroup::oom_kills("self"))
    }

    /// The same in the group that another process is in.
    pub fn around(pid: u32) -> Self {
        Self::of(cgroup::oom_kills(&pid.to_string()))
    }

    fn of(events: Option<PathBuf>) -> Self {
        // Before it is counted, so that nothing happens unseen in between.
        let told = events.as_ref().filter(|path| path.ends_with(cgroup::MEMORY_EVENTS));
        let changes = told.and_then(|path| {
            let unseen =
                |error: &io::Error| tracing::warn!("{} is not followed: {error}", path.display());
            changes_of(path).inspect_err(unseen).ok()
        });
        let kills = Self {
            events,
            before: Cell::default(),
            counted: Cell::new(Instant::now()),
            changes: RefCell::new(changes),
            last: Cell::default(),
        };
        kills.before.set(kills.count());
        kills
    }

    /// Take what the kernel tells of, for ever. Cancelling it loses nothing. For one at a time.
    pub async fn keep_up(&self) -> Infallible {
        loop {
            let change = poll_fn(|context| match &mut *self.changes.borrow_mut() {
                Some(changes) => changes.poll_next_unpin(context),
                None => Poll::Ready(None),
            });
            if let Some(Ok(_)) = change.await {
                self.look();
            } else {
                self.changes.take();
                return pending().await;
            }
        }
    }

    /// Whether there was one since the last look, or at that time: children of who is killed can be
    /// seen to end before it.
    pub fn look(&self) -> Oom {
        let now = self.count();
        let looked = self.counted.replace(Instant::now());
        let is_recent = self.changes.borrow().is_some() || looked.elapsed() < RECENT;
        let found = judge(self.before.replace(now), now, is_recent);
        if found != Oom::No {
            self.last.set(Some((found, Instant::now())));
        }
        let recent = self.last.get().filter(|(_, at)| at.elapsed() < TOGETHER);
        recent.map_or(Oom::No, |(oom, _)| oom)
    }

    fn count(&self) -> Count {
        let read = |path: &str| fs::read_to_string(path).ok();
        Count {
            group: self.events.as_ref().and_then(|path| oom_kills(&read(path.to_str()?)?)),
            machine: read("/proc/vmstat").and_then(|text| oom_kills(&text)),
        }
    }
}

fn changes_of(path: &Path) -> io::Result<EventStream<[u8; 1024]>> {
    let inotify = Inotify::init()?;
    inotify.watches().add(path, WatchMask::MODIFY)?;
    inotify.into_event_stream([0; 1024])
}

/// `is_recent`: whether nobody can have been counted long ago.
fn judge(before: Count, now: Count, is_recent: bool) -> Oom {
    let more = |before: Option<u64>, now| before.zip(now).map(|(before, now)| now > before);
    match (more(before.group, now.group), more(before.machine, now.machine)) {
        (Some(true), _) if is_recent => Oom::Yes,
        (Some(true), _) | (None, Some(true)) => Oom::Perhaps,
        _ => Oom::No,
    }
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use tokio::{task::yield_now, time::timeout};

    use super::*;

    #[test]
    fn the_nearer_count_decides() {
        let count = |group, machine| Count { group, machine };
        for (before, now, is_recent, oom) in [
            (count(Some(0), Some(3)), count(Some(1), Some(4)), true, Oom::Yes),
            // Somebody else's.
            (count(Some(1), Some(3)), count(Some(1), Some(4)), true, Oom::No),
            (count(None, Some(3)), count(None, Some(4)), true, Oom::Perhaps),
            (count(None, Some(3)), count(None, Some(3)), true, Oom::No),
            (count(None, None), count(None, None), true, Oom::No),
            (count(Some(0), None), count(Some(2), None), true, Oom::Yes),
            // Of hours ago, it may be.
            (count(Some(0), Some(3)), count(Some(1), Some(4)), false, Oom::Perhaps),
            (count(Some(1), Some(3)), count(Some(1), Some(4)), false, Oom::No),
        ] {
            assert_eq!(judge(before, now, is_recent), oom, "{before:?} {now:?} {is_recent}");
        }
    }

    fn write(path: &Path, count: u64) {
        let text = format!("low 0\nhigh 0\nmax 7\noom 2\noom_kill {count}\noom_group_kill 9\n");
        fs::write(path, text).unwrap();
    }

    /// As if it were that long ago.
    fn age(kills: &OomKills, age: Duration) {
        let then = Instant::now().checked_sub(age).unwrap();
        kills.counted.set(then);
        kills.last.set(kills.last.get().map(|(oom, _)| (oom, then)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_count_of_a_group_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        // As in version 1, of whose changes nobody is told.
        let path = dir.path().join("memory.oom_control");
        write(&path, 1);
        let kills = OomKills::of(Some(path.clone()));
        assert_eq!(kills.before.get().group, Some(1));
        assert_eq!(kills.look(), Oom::No);
        write(&path, 2);
        assert_eq!((kills.look(), kills.look()), (Oom::Yes, Oom::Yes));
        age(&kills, TOGETHER);
        assert_eq!(kills.look(), Oom::No);
        write(&path, 3);
        age(&kills, RECENT);
        assert_eq!(kills.look(), Oom::Perhaps);
        // A kernel that counts for the machine.
        assert!(OomKills::from_now().before.get().machine.is_some());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_end_of_long_ago_is_not_taken_for_one_of_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(cgroup::MEMORY_EVENTS);
        write(&path, 1);
        let kills = OomKills::of(Some(path.clone()));
        let taken = async {
            while kills.before.get().group != Some(2) {
                yield_now().await;
            }
        };
        // Somebody else, for whom nobody looks.
        write(&path, 2);
        tokio::select! {
            never = kills.keep_up() => match never {},
            () = taken => {}
        }
        assert_eq!(kills.look(), Oom::Yes);
        age(&kills, RECENT);
        assert_eq!(kills.look(), Oom::No);
        // What has not been taken yet when a death is seen.
        write(&path, 3);
        age(&kills, RECENT);
        assert_eq!(kills.look(), Oom::Yes);
        // A group that is gone tells no more, and nobody turns in circles for it.
        fs::remove_file(&path).unwrap();
        assert!(timeout(TOGETHER / 10, kills.keep_up()).await.is_err());
        assert_eq!(kills.before.get().group, None);
    }
}
