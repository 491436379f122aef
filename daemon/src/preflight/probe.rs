//! Asks programs about themselves.

use std::{collections::BTreeMap, io, path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncReadExt, process::Command, time::timeout};

/// How long a program may take: it is on a disk that sleeps, or on a file system that is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any of them says.
const LONGEST: u64 = 1 << 18;

/// Runs a program in the engine's environment and takes what it prints.
pub async fn output_of(
    program: &Path,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .env("LC_ALL", "C")
        // Most of them are Go programs, and collect garbage before they come to the question:
        // without that dockerd answers in 27 ms instead of 36.
        .env("GOGC", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    let all = async {
        let mut text = Vec::new();
        stdout.take(LONGEST).read_to_end(&mut text).await?;
        let status = child.wait().await?;
        if !status.success() {
            return Err(io::Error::other(status.to_string()));
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    timeout(PATIENCE, all).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::Machine;

    #[tokio::test(flavor = "current_thread")]
    async fn a_program_gets_nothing_but_its_environment() {
        let machine = Machine::bare();
        let program = machine.program("/p", "echo $1 $A ${HOME-none}; cat");
        let environment =
            BTreeMap::from([("A".into(), "b".into()), ("PATH".into(), "/bin".into())]);
        let output = output_of(&program, &["x"], &environment).await.expect("it answers");
        assert_eq!(output, "x b none\n");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn failures_are_told() {
        let machine = Machine::bare();
        let program = machine.program("/p", "exit 3");
        let error = output_of(&program, &[], &BTreeMap::new()).await.expect_err("it fails");
        assert!(error.to_string().contains('3'), "{error}");
        assert!(output_of(Path::new("/nowhere"), &[], &BTreeMap::new()).await.is_err());
    }
}
