//! Whether the kernel killed a process since memory ran out.
//!
//! It counts such ends: in a cgroup (`oom_kill` of `memory.events`, and in version 1 of
//! `memory.oom_control`, for whatever ran out, a limit or the machine) and on the whole machine
//! (`oom_kill` of `/proc/vmstat`, since Linux 4.13). Where the group has no memory controller, only the
//! last is to be had, which tells that there was such an end, not whose.

use std::{
    cell::Cell,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::cgroup;

/// Ends within this time are taken for one.
const TOGETHER: Duration = Duration::from_millis(500);

/// What is known of an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oom {
    /// Memory had nothing to do with it.
    #[default]
    No,
    /// The kernel killed somebody on this machine for memory meanwhile.
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
    /// What was found last, and when.
    last: Cell<Option<(Oom, Instant)>>,
}

impl OomKills {
    /// From now on, in the group that this process is in.
    pub fn from_now() -> Self {
        Self::of(cgroup::own_oom_kills())
    }

    fn of(events: Option<PathBuf>) -> Self {
        let kills = Self { events, before: Cell::default(), last: Cell::default() };
        kills.before.set(kills.count());
        kills
    }

    /// Whether there was one since the last look, or at that time: children of who is killed can be
    /// seen to end before it.
    pub fn look(&self) -> Oom {
        let now = self.count();
        let found = judge(self.before.replace(now), now);
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

fn judge(before: Count, now: Count) -> Oom {
    let more = |before: Option<u64>, now| before.zip(now).map(|(before, now)| now > before);
    match (more(before.group, now.group), more(before.machine, now.machine)) {
        (Some(true), _) => Oom::Yes,
        (None, Some(true)) => Oom::Perhaps,
        _ => Oom::No,
    }
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_count_decides() {
        let count = |group, machine| Count { group, machine };
        for (before, now, oom) in [
            (count(Some(0), Some(3)), count(Some(1), Some(4)), Oom::Yes),
            // Somebody else's.
            (count(Some(1), Some(3)), count(Some(1), Some(4)), Oom::No),
            (count(None, Some(3)), count(None, Some(4)), Oom::Perhaps),
            (count(None, Some(3)), count(None, Some(3)), Oom::No),
            (count(None, None), count(None, None), Oom::No),
            (count(Some(0), None), count(Some(2), None), Oom::Yes),
        ] {
            assert_eq!(judge(before, now), oom, "{before:?} {now:?}");
        }
    }

    #[test]
    fn the_count_of_a_group_is_followed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |count| {
            let text = format!("low 0\nhigh 0\nmax 7\noom 2\noom_kill {count}\noom_group_kill 9\n");
            fs::write(file.path(), text).unwrap();
        };
        write(1);
        let events = Some(file.path().to_owned());
        let kills = OomKills::of(events);
        assert_eq!(kills.before.get().group, Some(1));
        assert_eq!(kills.look(), Oom::No);
        write(2);
        assert_eq!((kills.look(), kills.look()), (Oom::Yes, Oom::Yes));
        kills.last.set(Instant::now().checked_sub(TOGETHER).map(|long_ago| (Oom::Yes, long_ago)));
        assert_eq!(kills.look(), Oom::No);
        // A kernel that counts for the machine.
        assert!(OomKills::from_now().before.get().machine.is_some());
    }
}
