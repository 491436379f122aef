//! `rootlessctl config`: the effective configuration, and where each value comes from.

use rootlessd_api::Setting;
use serde_json::json;

use crate::{
    cli::Patience, exit::Exit, failure::Failure, human::printable, output, supervisor::Supervisor,
};

/// Show the configuration that the supervisor works with.
pub async fn run(patience: Patience, json: bool) -> Result<Exit, Failure> {
    let supervisor = Supervisor::find(patience.timeout)?;
    let mut client = supervisor.connect().await?;
    let settings = supervisor.answer(client.config()).await?;
    if json {
        output::json(&json!({ "settings": settings }))?;
    } else {
        output::text(&table(&settings))?;
    }
    Ok(Exit::Ok)
}

fn table(settings: &[Setting]) -> String {
    let mut text = "KEY\tVALUE\tSOURCE\n".to_owned();
    for Setting { key, value, source } in settings {
        let (key, value, source) = (printable(key), printable(value), printable(source));
        text.push_str(&format!("{key}\t{value}\t{source}\n"));
    }
    output::aligned(&text, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_aligned() {
        let setting = |key: &str, value: &str, source: &str| Setting {
            key: key.into(),
            value: value.into(),
            source: source.into(),
        };
        let settings = [
            setting("engine.stop_timeout", "\"30s\"", "default"),
            setting("dockerd", "\"/opt/dockerd\"", "environment: DOCKERD"),
        ];
        assert_eq!(
            table(&settings),
            "\
KEY                  VALUE           SOURCE
engine.stop_timeout  \"30s\"           default
dockerd              \"/opt/dockerd\"  environment: DOCKERD
"
        );
    }
}
