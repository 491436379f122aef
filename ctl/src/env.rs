//! `rootlessctl env`: what the shell needs so that `docker` finds the engine.

use std::{borrow::Cow, time::Duration};

use rootlessd_api::names;
use serde_json::json;

use crate::{exit::Exit, failure::Failure, output, runtime_dir, supervisor::Supervisor};

/// A shell that starts must not wait longer than this for a supervisor that hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Print `DOCKER_HOST`. Without a supervisor it is where its socket will be.
pub async fn run(json: bool) -> Result<Exit, Failure> {
    let host = format!("unix://{}", socket().await?);
    if json {
        output::json(&json!({ "DOCKER_HOST": host }))?;
    } else {
        output::text(&format!("export DOCKER_HOST={}\n", shell_word(&host)))?;
    }
    Ok(Exit::Ok)
}

async fn socket() -> Result<String, Failure> {
    let status = Supervisor::find(Some(PATIENCE))?.raw_status().await.ok();
    let told = status.as_ref().and_then(|status| status["socketPath"].as_str());
    match told {
        Some(path) => Ok(path.to_owned()),
        None => Ok(names::docker_socket(&runtime_dir::find()?).display().to_string()),
    }
}

/// A word that every POSIX shell, and fish, reads as it is.
fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+@%".contains(c);
    if word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', "'\\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_the_shell_needs_it() {
        assert_eq!(shell_word("unix:///run/user/1/docker.sock"), "unix:///run/user/1/docker.sock");
        assert_eq!(shell_word("unix:///a b"), "'unix:///a b'");
        assert_eq!(shell_word("a'$(b)"), "'a'\\''$(b)'");
    }
}
