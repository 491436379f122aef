//! The exit codes. They are an interface: scripts rely on them, so none ever changes its meaning.

use std::process::ExitCode;

use rootlessd_api::{ErrorKind, State};

/// How rootlessctl ends; the number is what the shell sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked; of `status`: the engine is running, perhaps degraded.
    Ok = 0,
    /// The request failed, for a reason that has no number of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The engine is not running (the number is that of `systemctl status`).
    NotRunning = 3,
    /// No supervisor answers, or it ended the connection.
    NoSupervisor = 4,
    /// The time ran out.
    Timeout = 5,
    /// The job was cancelled, or a contrary one replaced it.
    Canceled = 6,
    /// The machine lacks something that the engine needs.
    Preflight = 7,
    /// The configuration has a mistake.
    Config = 8,
    /// Whoever has to agree did not.
    Denied = 9,
    /// The helper is not there.
    NoHelper = 10,
    /// A person pressed Ctrl-C (as a shell counts SIGINT).
    Interrupted = 130,
}

impl Exit {
    /// Every way to end.
    pub const ALL: &'static [Self] = &[
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::NotRunning,
        Self::NoSupervisor,
        Self::Timeout,
        Self::Canceled,
        Self::Preflight,
        Self::Config,
        Self::Denied,
        Self::NoHelper,
        Self::Interrupted,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What `status` says of a state. A word that this version does not know is not running.
    pub fn of_state(word: &str) -> Self {
        match word.parse::<State>() {
            Ok(state) if state.is_up() => Self::Ok,
            _ => Self::NotRunning,
        }
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Canceled => Self::Canceled,
            ErrorKind::Preflight => Self::Preflight,
            ErrorKind::Config => Self::Config,
            ErrorKind::AccessDenied
            | ErrorKind::InteractionRequired
            | ErrorKind::PolkitUnavailable => Self::Denied,
            ErrorKind::HelperMissing => Self::NoHelper,
            ErrorKind::Busy
            | ErrorKind::EngineDied
            | ErrorKind::NoSuchJob
            | ErrorKind::InvalidArgument
            | ErrorKind::Unsupported
            | ErrorKind::Conflict
            | ErrorKind::NoSuchGrant
            | ErrorKind::LimitsExceeded
            | ErrorKind::System
            | ErrorKind::Internal => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_ones_in_the_manual() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]);
        let manual = include_str!("../../docs/rootlessctl.md");
        for code in codes {
            assert!(manual.contains(&format!("| {code} |")), "the manual lacks exit status {code}");
        }
    }

    #[test]
    fn only_an_engine_that_answers_is_running() {
        let rows = [
            ("stopped", Exit::NotRunning),
            ("listening", Exit::NotRunning),
            ("starting", Exit::NotRunning),
            ("running", Exit::Ok),
            ("degraded", Exit::Ok),
            ("stopping", Exit::NotRunning),
            ("backoff", Exit::NotRunning),
            ("failed", Exit::NotRunning),
            ("hibernating", Exit::NotRunning),
        ];
        for (word, exit) in rows {
            assert_eq!(Exit::of_state(word), exit, "{word}");
        }
        for state in State::ALL {
            assert!(rows.iter().any(|(word, _)| *word == state.as_str()), "{state} has no row");
        }
    }

    #[test]
    fn failures_that_a_script_can_act_on_have_their_own_number() {
        let of = |kind: ErrorKind| Exit::from(kind).code();
        let codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| (kind.as_str(), of(*kind))).collect();
        for row in [
            ("Preflight", 7),
            ("Config", 8),
            ("Busy", 1),
            ("EngineDied", 1),
            ("Canceled", 6),
            ("Timeout", 5),
            ("NoSuchJob", 1),
            ("InvalidArgument", 1),
            ("AccessDenied", 9),
            ("InteractiveAuthorizationRequired", 9),
            ("HelperMissing", 10),
            ("Internal", 1),
        ] {
            assert!(codes.contains(&row), "{row:?}");
        }
    }
}
