//! How a verb fails: what, to what, why, and the command that mends it.

use std::{io, path::PathBuf, time::Duration};

use rootlessd_api::{Error, client::ClientError};
use serde_json::{Value, json};

use crate::{
    exit::Exit,
    human::{duration, printable},
};

/// A failed verb.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line asks for what does not go together.
    #[error("{0}")]
    Usage(&'static str),
    /// There is no runtime directory, so no place where a supervisor could be looked for.
    #[error("{message}")]
    NoRuntimeDir {
        /// What is the matter with it.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// Nobody listens on the supervisor's socket.
    #[error("no rootlessd answers on {}: {}", socket.display(), reason(source))]
    NoSupervisor {
        /// The socket.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
        /// How to start one here.
        remedy: String,
    },
    /// The supervisor went away in the middle.
    #[error("rootlessd ended the connection")]
    Closed,
    /// The supervisor says something that this version does not understand.
    #[error("rootlessd answers what this rootlessctl does not understand: {}", printable(.0))]
    Protocol(String),
    /// No answer in time.
    #[error("{what} took longer than {}", duration(*.after))]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// What to do.
        remedy: &'static str,
    },
    /// The supervisor refused, or a job failed.
    #[error("{}", printable(&.0.message))]
    Api(Error),
    /// The engine is in the state `failed`.
    #[error("{}", printable(message))]
    EngineFailed {
        /// Why.
        message: String,
        /// What to do.
        remedy: Option<String>,
    },
    /// A person pressed Ctrl-C.
    #[error("{0}")]
    Interrupted(&'static str),
    /// The logs cannot be read.
    #[error("{message}")]
    NoLogs {
        /// Why.
        message: String,
        /// What to do.
        remedy: Option<String>,
    },
    /// RootlessKit's API refused or does not answer; its message is the whole text.
    #[error("{0}")]
    Rootlesskit(String),
    /// A file or the output cannot be read or written.
    #[error("cannot {action}: {}", reason(source))]
    Io {
        /// What was tried, to what.
        action: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl Failure {
    /// Its stable name: one of the interface's errors, or one of rootlessctl's own.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Usage(_) => "Usage",
            Self::NoRuntimeDir { .. } => "NoRuntimeDir",
            Self::NoSupervisor { .. } => "NoSupervisor",
            Self::Closed => "Closed",
            Self::Protocol(_) => "Protocol",
            Self::Timeout { .. } => "Timeout",
            Self::Api(error) => error.kind.as_str(),
            Self::EngineFailed { .. } => "EngineFailed",
            Self::Interrupted(_) => "Interrupted",
            Self::NoLogs { .. } => "NoLogs",
            Self::Rootlesskit(_) => "Rootlesskit",
            Self::Io { .. } => "Io",
        }
    }

    /// The command that mends it, or a sentence.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::NoRuntimeDir { remedy, .. } | Self::NoSupervisor { remedy, .. } => Some(remedy),
            Self::Closed => Some("rootlessctl status"),
            Self::Protocol(_) => Some(
                "rootlessctl version shows whether both are of one version; install the same one",
            ),
            Self::Timeout { remedy, .. } => Some(remedy),
            Self::Api(error) => error.remedy.as_deref(),
            Self::EngineFailed { remedy, .. } | Self::NoLogs { remedy, .. } => remedy.as_deref(),
            Self::Usage(_) => Some("rootlessctl --help"),
            Self::Interrupted(_) | Self::Rootlesskit(_) | Self::Io { .. } => None,
        }
    }

    /// How the process ends on it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NoRuntimeDir { .. } | Self::NoSupervisor { .. } | Self::Closed => {
                Exit::NoSupervisor
            }
            Self::Timeout { .. } => Exit::Timeout,
            Self::Api(error) => error.kind.into(),
            Self::Interrupted(_) => Exit::Interrupted,
            Self::Protocol(_)
            | Self::EngineFailed { .. }
            | Self::NoLogs { .. }
            | Self::Rootlesskit(_)
            | Self::Io { .. } => Exit::Failed,
        }
    }

    /// Whether the reader of our output went away, as `head` does. That is no failure.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What `--json` prints.
    pub fn to_json(&self) -> Value {
        json!({ "error": {
            "name": self.name(),
            "message": self.to_string(),
            "remedy": self.remedy(),
        }})
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Connect { path, source } => {
                let remedy = how_to_start(&source);
                Self::NoSupervisor { socket: path, source, remedy }
            }
            ClientError::Closed { .. } => Self::Closed,
            ClientError::Api(error) => Self::Api(error),
            ClientError::UnknownMethod(text) | ClientError::Protocol(text) => Self::Protocol(text),
        }
    }
}

/// The system's reason without the number that only a programmer needs.
pub fn reason(source: &io::Error) -> String {
    let text = source.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn how_to_start(source: &io::Error) -> String {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return "the socket is somebody else's: run rootlessctl as the user who runs rootlessd"
            .to_owned();
    }
    if rustix::process::geteuid().is_root() {
        return "rootlessd does not run as root: run rootlessctl as an ordinary user, without sudo"
            .to_owned();
    }
    // The directory exists where systemd is PID 1, as sd_booted(3) says.
    if std::path::Path::new("/run/systemd/system").is_dir() {
        // Sessions of su and sudo lack what systemctl finds the user's systemd by.
        let prefix = match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(_) => String::new(),
            None => format!("XDG_RUNTIME_DIR=/run/user/{} ", rustix::process::geteuid().as_raw()),
        };
        format!("{prefix}systemctl --user enable --now rootlessd")
    } else {
        "rootlessd --daemonize".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use rootlessd_api::ErrorKind;

    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::from(ClientError::Connect {
            path: "/run/user/1/rootlessd/x".into(),
            source: io::Error::from_raw_os_error(2),
        });
        assert_eq!(
            failure.to_string(),
            "no rootlessd answers on /run/user/1/rootlessd/x: No such file or directory"
        );
        assert_eq!(failure.exit(), Exit::NoSupervisor);
        assert!(failure.remedy().unwrap().contains("rootlessd"));

        let failure = Failure::Timeout {
            what: "the answer of rootlessd".into(),
            after: Duration::from_secs(10),
            remedy: "x",
        };
        assert_eq!(failure.to_string(), "the answer of rootlessd took longer than 10 s");
    }

    #[test]
    fn json_errors_carry_the_stable_name() {
        let error = Error::new(ErrorKind::Preflight, "no subuid").with_remedy("usermod");
        assert_eq!(
            Failure::Api(error).to_json(),
            json!({"error": {"name": "Preflight", "message": "no subuid", "remedy": "usermod"}})
        );
        assert_eq!(
            Failure::Closed.to_json()["error"]["name"],
            json!("Closed"),
            "errors of the connection have names too"
        );
    }

    #[test]
    fn messages_from_elsewhere_cannot_command_the_terminal() {
        let error = Error::new(ErrorKind::Internal, "a\x1b[2Jb");
        assert_eq!(Failure::Api(error).to_string(), "a\\u{1b}[2Jb");
    }
}
