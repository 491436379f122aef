//! `rootlessctl watch`: a line for every change, until the supervisor goes away.

use serde_json::Value;

use crate::{
    cli::Patience,
    exit::Exit,
    failure::Failure,
    human::Clock,
    output::{self, Palette},
    summary,
    supervisor::{Supervisor, understood},
};

/// Follow the status.
pub async fn run(patience: Patience, json: bool) -> Result<Exit, Failure> {
    let supervisor = Supervisor::find(patience.timeout)?;
    let mut watch = supervisor.raw_watch().await?;
    let mut shown = String::new();
    let mut status = supervisor.answer(watch.next()).await?;
    loop {
        if json {
            output::json_line(&status)?
        } else {
            show(&status, &mut shown)?
        }
        status = watch.next().await?;
    }
}

/// Show a status unless its line says the same as the last one.
fn show(status: &Value, shown: &mut String) -> Result<(), Failure> {
    let status = understood(status)?;
    let clock = Clock::system();
    let line = summary::line(&status, &clock);
    if line == *shown {
        return Ok(());
    }
    let faint = Palette::of_stdout().faint;
    output::text(&format!("{faint}{}{faint:#} {line}\n", clock.log_time(clock.now)))?;
    *shown = line;
    Ok(())
}
