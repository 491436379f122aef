//! What a process is doing that should do something else.

use std::{collections::BTreeMap, fmt, fs, time::Duration};

use super::process::Stat;

/// What a process is doing, of all of its threads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Somebody has stopped it (SIGSTOP).
    Stopped,
    /// A debugger holds it.
    Traced,
    /// A thread computes, or waits for a processor.
    Busy,
    /// A thread waits for the kernel: for a disk, or for another machine's.
    Blocked,
    /// All threads wait for something to happen.
    Asleep,
    /// It has just ended.
    Ended,
}

impl Doing {
    /// By the state of the process and those of its threads (proc(5)).
    fn of(process: char, threads: &str) -> Self {
        match process {
            'T' => Self::Stopped,
            't' => Self::Traced,
            'Z' | 'X' => Self::Ended,
            _ if threads.contains('R') => Self::Busy,
            _ if threads.contains('D') => Self::Blocked,
            _ => Self::Asleep,
        }
    }

    /// Whether it gets on, as far as can be seen, or may do so as soon as the machine lets it.
    pub const fn gets_on(self) -> bool {
        matches!(self, Self::Busy | Self::Blocked)
    }
}

/// How a process was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// What it is doing.
    pub doing: Doing,
    /// The processor time that it has used so far.
    pub used: Duration,
    /// Where in the kernel its waiting threads are (`wchan` of proc(5)), and how many at each place.
    waits: BTreeMap<String, usize>,
}

impl Activity {
    /// Of a process; `None` when there is none (any more).
    pub fn of(pid: u32) -> Option<Self> {
        let process = Stat::of(pid)?;
        let (mut states, mut waits) = (String::new(), BTreeMap::new());
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let text = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let Some(Stat { state, .. }) = Stat::parse(&text) else { continue };
            states.push(state);
            let place = fs::read_to_string(task.path().join("wchan")).unwrap_or_default();
            // 0 is for who does not wait, and for all where the kernel tells nobody.
            if matches!(state, 'S' | 'D') && !matches!(place.as_str(), "" | "0") {
                *waits.entry(place).or_default() += 1;
            }
        }
        let doing = Doing::of(process.state, &states);
        Some(Self { doing, used: process.used, waits })
    }

    /// One for tests.
    #[cfg(test)]
    pub const fn doing(doing: Doing) -> Self {
        Self { doing, used: Duration::ZERO, waits: BTreeMap::new() }
    }
}

/// Goes on with "it is" or "it was".
impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.doing {
            Doing::Stopped => return f.write_str("stopped by SIGSTOP"),
            Doing::Traced => return f.write_str("held by a debugger"),
            Doing::Ended => return f.write_str("at its end"),
            Doing::Busy => return f.write_str("busy"),
            Doing::Blocked => "waiting for the kernel",
            Doing::Asleep => "asleep",
        })?;
        let mut waits: Vec<_> = self.waits.iter().collect();
        waits.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (number, (place, count)) in waits.into_iter().take(3).enumerate() {
            let separator = if number == 0 { " in " } else { ", " };
            write!(f, "{separator}{place} ({count})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::{sys::signal::Signal, unistd::Pid};

    use super::*;

    #[test]
    fn what_threads_do_together() {
        for (process, threads, doing) in [
            ('S', "SSS", Doing::Asleep),
            ('S', "SRD", Doing::Busy),
            ('S', "SDS", Doing::Blocked),
            ('S', "", Doing::Asleep),
            ('T', "TTR", Doing::Stopped),
            ('t', "tS", Doing::Traced),
            ('Z', "", Doing::Ended),
        ] {
            assert_eq!(Doing::of(process, threads), doing, "{process} {threads}");
        }
    }

    #[test]
    fn in_words() {
        let waits = [("futex_wait", 12), ("ep_poll", 1), ("a", 2), ("b", 1)];
        let waits: BTreeMap<_, _> =
            waits.into_iter().map(|(place, count)| (place.to_owned(), count)).collect();
        let used = Duration::ZERO;
        for (doing, text) in [
            (Doing::Asleep, "asleep in futex_wait (12), a (2), b (1)"),
            (Doing::Stopped, "stopped by SIGSTOP"),
            (Doing::Busy, "busy"),
        ] {
            assert_eq!(Activity { doing, used, waits: waits.clone() }.to_string(), text);
        }
        let nowhere = Activity { doing: Doing::Blocked, used, waits: BTreeMap::new() };
        assert_eq!(nowhere.to_string(), "waiting for the kernel");
    }

    #[test]
    fn a_process_as_it_is() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
        while Activity::of(child.id()).unwrap().doing != Doing::Stopped {
            std::thread::yield_now();
        }
        nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
        while Activity::of(child.id()).unwrap().doing != Doing::Asleep {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Activity::of(child.id()), None);
        let own = || Activity::of(std::process::id()).unwrap().used;
        let before = own();
        while own() == before {}
    }
}
