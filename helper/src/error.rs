//! What several verbs say when something fails.

use std::io;

use rootlessd_api::{Error, ErrorKind};

/// The system refused.
pub fn cannot(action: &str, what: &str, error: &io::Error) -> Error {
    let text = format!("cannot {action} {what}: {error}");
    match error.kind() {
        io::ErrorKind::Unsupported => Error::new(ErrorKind::Unsupported, text),
        // Of the helper's view alone, if the file was replaced since the helper started.
        io::ErrorKind::ReadOnlyFilesystem => {
            Error::new(ErrorKind::System, text).with_remedy("try again in a minute")
        }
        _ => Error::new(ErrorKind::System, text),
    }
}

/// A file is not as it was left, so that it may be somebody else's now.
pub fn not_ours(file: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "{file} is not as rootlessd-helper left it, and is left alone; nothing was changed"
        ),
    )
    .with_remedy(format!("sudo mv {file} {file}.orig"))
}
