//! A question that a person answers on the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use tokio::sync::oneshot;

use crate::{failure::Failure, output};

/// Whether anybody is there to answer.
pub fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks; everything but a clear yes is no.
pub async fn yes(question: &str) -> Result<bool, Failure> {
    let failed = |source| Failure::Io { action: "ask on the terminal".to_owned(), source };
    write!(io::stderr(), "{question} [y/N] ").map_err(failed)?;
    let (sender, answer) = oneshot::channel();
    // A thread that nobody waits for: what is read cannot be called off, and Ctrl-C has to end this.
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer);
        let _ = sender.send(read.map(|_| answer));
    });
    tokio::select! {
        biased;
        Ok(()) = tokio::signal::ctrl_c() => {
            output::end_line();
            Err(Failure::Interrupted("interrupted"))
        }
        // A thread that is lost has read nothing.
        answer = answer => Ok(is_yes(&answer.unwrap_or_else(|_| Ok(String::new())).map_err(failed)?)),
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for answer in ["y\n", "Y\n", "yes\n", " YES \n"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n\n", "no\n", "yeah, no\n", "j\n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
