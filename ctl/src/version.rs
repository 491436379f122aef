//! `rootlessctl version`: which versions of what are at work.

use serde_json::{Value, json};

use crate::{
    cli::Patience, exit::Exit, failure::Failure, human::printable, output, supervisor::Supervisor,
};

const OURS: &str = env!("CARGO_PKG_VERSION");

/// The engine's programs: what they are called, and their fields in the status.
const ENGINE: [(&str, &str); 4] = [
    ("Docker", "version"),
    ("containerd", "containerdVersion"),
    ("runc", "runcVersion"),
    ("RootlessKit", "rootlesskitVersion"),
];

/// Show the versions; without a supervisor, ours and why there are no others.
pub async fn run(patience: Patience, json: bool) -> Result<Exit, Failure> {
    let asked = async { Supervisor::find(patience.timeout)?.raw_status().await };
    // Read as it is written: a supervisor of another version is the very case this is for.
    match (asked.await, json) {
        (Ok(status), true) => output::json(&as_json(&status))?,
        (Ok(status), false) => output::text(&as_text(&status))?,
        (Err(failure), true) => {
            let mut value = as_json(&Value::Null);
            value["error"] = failure.to_json()["error"].take();
            output::json(&value)?;
            return Ok(failure.exit());
        }
        (Err(failure), false) => {
            output::text(&as_text(&Value::Null))?;
            return Err(failure);
        }
    }
    Ok(Exit::Ok)
}

fn as_json(status: &Value) -> Value {
    let engine: serde_json::Map<String, Value> = ENGINE
        .iter()
        .filter_map(|(name, field)| Some((name.to_lowercase(), status.get(field)?.clone())))
        .collect();
    json!({
        "client": { "version": OURS },
        "supervisor": status.get("supervisor"),
        "engine": if engine.is_empty() { Value::Null } else { Value::Object(engine) },
    })
}

fn as_text(status: &Value) -> String {
    let mut text = format!("rootlessctl  {OURS}\n");
    let supervisor = ("rootlessd", &status["supervisor"]["version"]);
    let engine = ENGINE.iter().map(|(name, field)| (*name, &status[*field]));
    for (name, version) in std::iter::once(supervisor).chain(engine) {
        if let Some(version) = version.as_str() {
            text.push_str(&format!("{name:<11}  {}\n", printable(version)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn versions_of_all_that_are_known() {
        let status = serde_json::to_value(samples::running()).unwrap();
        assert_eq!(
            as_text(&status),
            format!(
                "rootlessctl  {OURS}\nrootlessd    0.1.0\nDocker       26.1.5\n\
                 containerd   1.7.24\nrunc         1.1.15\nRootlessKit  2.0.2\n"
            )
        );
        assert_eq!(as_json(&status)["engine"]["rootlesskit"], json!("2.0.2"));
        let status = serde_json::to_value(samples::stopped()).unwrap();
        assert_eq!(as_json(&status)["engine"], Value::Null);
    }

    #[test]
    fn a_status_of_another_version_is_no_obstacle() {
        let status = json!({"state": "hibernating", "supervisor": {"version": "9.0.0"}});
        assert_eq!(as_text(&status), format!("rootlessctl  {OURS}\nrootlessd    9.0.0\n"));
    }
}
