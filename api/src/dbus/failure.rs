//! How a request fails on D-Bus: always with a name that a client can act on.

use zbus::{DBusError, Message, message::Header, names::ErrorName};

use crate::{Error, ErrorKind};

/// An error reply.
///
/// Written by hand, since the derived ones know only one prefix, and send an error of zbus's own
/// under a name that says nothing.
#[derive(Debug)]
pub struct Failure {
    name: String,
    text: String,
}

impl Failure {
    /// An argument or option that does not exist, or with a type or value that it cannot have.
    pub fn invalid(text: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, text).into()
    }

    /// More calls at a time than are let in.
    pub fn limit() -> Self {
        Error::new(
            ErrorKind::LimitsExceeded,
            "too many calls wait for an answer already; wait for some of them",
        )
        .into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // The bus takes no NUL.
        let text = error.to_string().replace('\0', "\u{fffd}");
        Self { name: error.kind.dbus_name(), text }
    }
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        Error::new(ErrorKind::Internal, error.to_string()).into()
    }
}

impl DBusError for Failure {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&(&self.text,))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_str_unchecked(&self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}

/// What a client got for an error: ours by its name, or what the bus says when nobody answers.
impl From<zbus::Error> for Error {
    fn from(error: zbus::Error) -> Self {
        let (name, text) = match &error {
            zbus::Error::MethodError(name, text, _) => (name.to_string(), text.clone()),
            zbus::Error::FDO(error) => {
                (error.name().to_string(), error.description().map(str::to_owned))
            }
            other => return Self::new(ErrorKind::Internal, other.to_string()),
        };
        let kind = ErrorKind::from_dbus_name(&name).unwrap_or(ErrorKind::Internal);
        Self::from_text(kind, &text.unwrap_or(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_that_the_bus_takes_and_that_leads_back() {
        for &kind in ErrorKind::ALL {
            let failure = Failure::from(Error::new(kind, "why"));
            assert!(ErrorName::try_from(failure.name.as_str()).is_ok(), "{}", failure.name);
            assert_eq!(ErrorKind::from_dbus_name(&failure.name), Some(kind));
        }
    }
}
