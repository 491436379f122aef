//! Asks programs about themselves.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::errno::Errno;
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

/// How long a program may take: it is on a disk that sleeps, or on a file system that is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any of them says.
const LONGEST: u64 = 1 << 18;

/// Runs a program in the engine's environment: what it prints, or `None` if it says nothing of
/// itself. The error says, in a sentence, why that could not be found out this time.
pub async fn ask(
    program: &Path,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    let asked = || format!("{} {}", program.display(), arguments.join(" "));
    match output_of(program, arguments, environment).await {
        Ok(text) => Ok(Some(text)),
        Err(Silence::Lasting(why)) => {
            tracing::info!("{} does not answer: {why}", asked());
            Ok(None)
        }
        Err(Silence::Passing(why)) => Err(format!("{}: {why}", asked())),
    }
}

/// Why a program did not say anything about itself.
#[derive(Debug)]
enum Silence {
    /// It is like that: it cannot be run, or ended by itself.
    Lasting(String),
    /// It was slow or killed, or the machine had nothing left to run it with: the next time it may
    /// answer.
    Passing(String),
}

async fn output_of(
    program: &Path,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
) -> Result<String, Silence> {
    match timeout(PATIENCE, run(program, arguments, environment)).await {
        Ok(Ok((text, status))) => judge(status).map(|()| text),
        Ok(Err(error)) => Err(could_not_run(&error)),
        Err(_) => Err(Silence::Passing(format!("it did not answer within {PATIENCE:?}"))),
    }
}

async fn run(
    program: &Path,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
) -> io::Result<(String, ExitStatus)> {
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
    let mut text = Vec::new();
    stdout.take(LONGEST).read_to_end(&mut text).await?;
    Ok((String::from_utf8_lossy(&text).into_owned(), child.wait().await?))
}

fn judge(status: ExitStatus) -> Result<(), Silence> {
    match status.signal() {
        _ if status.success() => Ok(()),
        Some(signal) => Err(Silence::Passing(format!("it was ended by signal {signal}"))),
        None => Err(Silence::Lasting(status.to_string())),
    }
}

fn could_not_run(error: &io::Error) -> Silence {
    use io::ErrorKind as K;
    let text = error.to_string();
    match error.kind() {
        // No program of this path, none that may be run, none that can be.
        K::NotFound | K::PermissionDenied | K::InvalidInput | K::NotADirectory => {
            Silence::Lasting(text)
        }
        _ if error.raw_os_error() == Some(Errno::ENOEXEC as i32) => Silence::Lasting(text),
        _ => Silence::Passing(text),
    }
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
    async fn what_may_pass_is_told_from_what_lasts() {
        let machine = Machine::bare();
        for (script, passes, why) in [
            ("exit 3", false, "3"),
            ("kill -KILL $$", true, "signal 9"),
            ("kill -TERM $$", true, "signal 15"),
        ] {
            let program = machine.program("/p", script);
            let silence = output_of(&program, &[], &BTreeMap::new()).await.expect_err(script);
            let (passing, text) = match silence {
                Silence::Passing(text) => (true, text),
                Silence::Lasting(text) => (false, text),
            };
            assert_eq!(passing, passes, "{script}: {text}");
            assert!(text.contains(why), "{script}: {text}");
        }
        let nowhere = output_of(Path::new("/nowhere"), &[], &BTreeMap::new()).await;
        assert!(matches!(nowhere, Err(Silence::Lasting(_))), "{nowhere:?}");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_slow_program_may_answer_the_next_time() {
        let machine = Machine::bare();
        let program = machine.program("/p", "exec /bin/sleep 3600");
        let slow = output_of(&program, &[], &BTreeMap::new()).await;
        assert!(matches!(slow, Err(Silence::Passing(_))), "{slow:?}");
    }
}
