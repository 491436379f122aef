//! RootlessKit's own verbs, so that this `rootlessctl` can take the place of RootlessKit's.
//!
//! What goes to standard output and standard error, and the exit status, are RootlessKit's, its
//! error texts included. Only where RootlessKit's gives up for want of `--socket`, the supervisor is
//! asked where the engine's RootlessKit is.

mod api;
mod info;
mod ports;
mod spec;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{cli::Rootlesskit, failure::Failure, supervisor::Supervisor};

pub use self::{
    info::info,
    ports::{add_ports, list_ports, remove_ports},
};

/// How long the supervisor may take to say where RootlessKit is.
const PATIENCE: Duration = Duration::from_secs(2);

/// RootlessKit's API: at `--socket`, below `$ROOTLESSKIT_STATE_DIR`, or where the supervisor says.
async fn connect(options: &Rootlesskit) -> Result<api::Api, Failure> {
    let socket = match &options.socket {
        Some(socket) if !socket.as_os_str().is_empty() => socket.clone(),
        _ => api_socket(&state_dir().await?),
    };
    api::Api::new(socket)
}

async fn state_dir() -> Result<PathBuf, Failure> {
    let variable = std::env::var_os("ROOTLESSKIT_STATE_DIR").filter(|value| !value.is_empty());
    if let Some(directory) = variable {
        return Ok(directory.into());
    }
    let status = async { Supervisor::find(Some(PATIENCE))?.raw_status().await };
    match status.await.ok().as_ref().and_then(|status| status["stateDir"].as_str()) {
        Some(directory) => Ok(directory.into()),
        None => Err(Failure::Rootlesskit(
            "please specify --socket or set $ROOTLESSKIT_STATE_DIR".to_owned(),
        )),
    }
}

/// `api.sock` in a directory whose name is written in the shortest form.
fn api_socket(directory: &Path) -> PathBuf {
    directory.join("api.sock").components().collect()
}

/// JSON as Go writes it: `<`, `>` and `&` are escaped. They occur in strings only.
fn like_go(json: &str) -> String {
    json.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_below_the_state_directory() {
        assert_eq!(api_socket(Path::new("/run//x/")), Path::new("/run/x/api.sock"));
    }

    #[test]
    fn json_is_escaped_as_for_html() {
        assert_eq!(like_go(r#"{"a":"<b>&\u2028"}"#), r#"{"a":"\u003cb\u003e\u0026\u2028"}"#);
    }
}
