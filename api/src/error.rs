//! How a request fails: a stable name for programs, a sentence and a remedy for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    names,
    status::{Reason, words},
};

words! {
    /// The name of a failure: `org.rootlessd.Error.NAME` on D-Bus, `org.rootlessd.Supervisor.NAME`
    /// on varlink.
    ErrorKind {
        /// Something that the engine needs cannot be had on this machine as it is; the status has
        /// the reasons.
        Preflight = "Preflight",
        /// The configuration has a mistake.
        Config = "Config",
        /// The engine is on its way somewhere else; or rootlessd has too many clients, or is being
        /// stopped.
        Busy = "Busy",
        /// The engine died while it was being started.
        EngineDied = "EngineDied",
        /// The job was cancelled.
        Canceled = "Canceled",
        /// The time that the request gave ran out.
        Timeout = "Timeout",
        /// No such job, or none any more.
        NoSuchJob = "NoSuchJob",
        /// An argument or option that does not exist or has a value out of its range.
        InvalidArgument = "InvalidArgument",
        /// The caller is somebody else.
        AccessDenied = "AccessDenied",
        /// Somebody has to agree, and the call did not allow that anybody is asked.
        InteractionRequired = "InteractiveAuthorizationRequired",
        /// polkit, which has to agree, cannot be asked.
        PolkitUnavailable = "PolkitUnavailable",
        /// The helper is not installed, or there is no system bus to reach it by.
        HelperMissing = "HelperMissing",
        /// The machine cannot do it: its kernel, its cgroups, its systemd.
        Unsupported = "Unsupported",
        /// Somebody else changed what was to be changed, and it is left alone.
        Conflict = "Conflict",
        /// No such grant, or none any more.
        NoSuchGrant = "NoSuchGrant",
        /// More at a time, or at all, than one user may have.
        LimitsExceeded = "LimitsExceeded",
        /// The system refused: a file that cannot be written, a program that failed.
        System = "System",
        /// A fault of rootlessd.
        Internal = "Internal",
    }
}

/// Those that have a standard name on D-Bus, without its prefix.
const STANDARD: [(ErrorKind, &str); 4] = [
    (ErrorKind::InvalidArgument, "InvalidArgs"),
    (ErrorKind::AccessDenied, "AccessDenied"),
    (ErrorKind::InteractionRequired, "InteractiveAuthorizationRequired"),
    (ErrorKind::LimitsExceeded, "LimitsExceeded"),
];
/// What a standard name begins with.
const STANDARD_PREFIX: &str = "org.freedesktop.DBus.Error.";

impl ErrorKind {
    /// The name on D-Bus: ours, or a standard one where there is one.
    pub fn dbus_name(self) -> String {
        match STANDARD.iter().find(|(kind, _)| *kind == self) {
            Some((_, name)) => format!("{STANDARD_PREFIX}{name}"),
            None => format!("{}{self}", names::ERROR_PREFIX),
        }
    }

    /// The kind that a D-Bus error name stands for, if it is one of ours, or says that nobody answers
    /// to the helper's name.
    pub fn from_dbus_name(name: &str) -> Option<Self> {
        if let Some(standard) = name.strip_prefix(STANDARD_PREFIX) {
            return match standard {
                "ServiceUnknown" | "NameHasNoOwner" => Some(Self::HelperMissing),
                // A service that cannot be started.
                other if other.starts_with("Spawn.") => Some(Self::HelperMissing),
                "Timeout" | "TimedOut" | "NoReply" => Some(Self::Timeout),
                _ => STANDARD.iter().find(|(_, name)| *name == standard).map(|(kind, _)| *kind),
            };
        }
        match name {
            "org.freedesktop.systemd1.NoSuchUnit" => Some(Self::HelperMissing),
            _ => name.strip_prefix(names::ERROR_PREFIX)?.parse().ok(),
        }
    }

    /// The kind that a varlink error name stands for, if it is one of ours.
    pub fn from_varlink_name(name: &str) -> Option<Self> {
        match name {
            "org.varlink.service.InvalidParameter" => Some(Self::InvalidArgument),
            "org.varlink.service.PermissionDenied" => Some(Self::AccessDenied),
            _ => name.strip_prefix(names::VARLINK_INTERFACE)?.strip_prefix('.')?.parse().ok(),
        }
    }
}

/// What stands between a message and its remedy, where both are one text; a bracket ends it.
const REMEDY: &str = " (to mend it: ";

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Error {
    /// Its stable name.
    #[serde(rename = "name")]
    pub kind: ErrorKind,
    /// What happened, to what, and why.
    pub message: String,
    /// The command that mends it, or a sentence where no command does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Error {
    /// A failure without a remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), remedy: None }
    }

    /// The failure whose text, as [`fmt::Display`] writes it, this is: where only text travels, the
    /// remedy is found again.
    pub fn from_text(kind: ErrorKind, text: &str) -> Self {
        match text.strip_suffix(')').and_then(|text| text.split_once(REMEDY)) {
            Some((message, remedy)) => Self::new(kind, message).with_remedy(remedy),
            None => Self::new(kind, text),
        }
    }

    /// The same failure with what mends it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "{REMEDY}{remedy})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// What prevents a start is a failed preflight.
impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Self { kind: ErrorKind::Preflight, message: reason.text, remedy: reason.remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_remedy_in_it() {
        let plain = Error::new(ErrorKind::System, "it rains (again)");
        let mended = plain.clone().with_remedy("open the umbrella (the blue one)");
        for error in [plain, mended] {
            assert_eq!(Error::from_text(ErrorKind::System, &error.to_string()), error);
        }
    }

    #[test]
    fn what_the_bus_says_of_a_helper_that_is_not_there() {
        for name in [
            "org.freedesktop.DBus.Error.ServiceUnknown",
            "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
            "org.freedesktop.systemd1.NoSuchUnit",
        ] {
            assert_eq!(ErrorKind::from_dbus_name(name), Some(ErrorKind::HelperMissing), "{name}");
        }
    }
}
