//! `reload` and `reset-failed`: requests that are done when they are answered.

use serde_json::json;

use crate::{cli::Patience, exit::Exit, failure::Failure, output, supervisor::Supervisor};

/// Have the configuration read again.
pub async fn reload(patience: Patience, json: bool) -> Result<Exit, Failure> {
    let supervisor = Supervisor::find(patience.timeout)?;
    let mut client = supervisor.connect().await?;
    supervisor.answer(client.reload()).await?;
    done(json, "The configuration is read again.")
}

/// Have the deaths forgotten.
pub async fn reset_failed(patience: Patience, json: bool) -> Result<Exit, Failure> {
    let supervisor = Supervisor::find(patience.timeout)?;
    let mut client = supervisor.connect().await?;
    supervisor.answer(client.reset_failed()).await?;
    done(json, "The failures are forgotten.")
}

fn done(json: bool, sentence: &str) -> Result<Exit, Failure> {
    if json {
        output::json(&json!({}))?
    } else {
        output::text(&format!("{sentence}\n"))?
    }
    Ok(Exit::Ok)
}
