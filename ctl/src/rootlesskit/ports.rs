//! `list-ports`, `add-ports` and `remove-ports`.

use serde_json::Value;

use super::{
    connect, like_go,
    spec::{Spec, atoi},
};
use crate::{cli::Rootlesskit, exit::Exit, failure::Failure, output};

const PORTS: &str = "/v1/ports";

/// List the ports: a table, or one JSON object a line.
pub async fn list_ports(options: &Rootlesskit, json: bool) -> Result<Exit, Failure> {
    let answer = connect(options).await?.get(PORTS).await?;
    let ports = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if json {
        ports.iter().try_for_each(|port| output::text(&json_line(port)))?;
    } else {
        output::text(&table(ports))?;
    }
    Ok(Exit::Ok)
}

/// Add ports, in their order, until one is refused.
pub async fn add_ports(
    options: &Rootlesskit,
    specs: &[String],
    json: bool,
) -> Result<Exit, Failure> {
    if specs.is_empty() {
        return Err(Failure::Rootlesskit("no port specified".to_owned()));
    }
    let specs = specs.iter().map(|spec| Spec::parse(spec).map_err(Failure::Rootlesskit));
    let specs = specs.collect::<Result<Vec<_>, _>>()?;
    let api = connect(options).await?;
    for spec in specs {
        let body = serde_json::to_string(&spec)
            .map_err(|error| Failure::Rootlesskit(error.to_string()))?;
        let port = api.post(PORTS, body).await?;
        if json { output::text(&json_line(&port))? } else { output::text(&id_line(&port))? }
    }
    Ok(Exit::Ok)
}

/// Remove ports, in their order, until one is refused.
pub async fn remove_ports(options: &Rootlesskit, ids: &[String]) -> Result<Exit, Failure> {
    if ids.is_empty() {
        return Err(Failure::Rootlesskit("no ID specified".to_owned()));
    }
    let ids = ids.iter().map(|id| atoi(id).map_err(Failure::Rootlesskit));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    let api = connect(options).await?;
    for id in ids {
        api.delete(&format!("{PORTS}/{id}")).await?;
        output::text(&format!("{id}\n"))?;
    }
    Ok(Exit::Ok)
}

fn json_line(port: &Value) -> String {
    like_go(&format!("{port}\n"))
}

fn id_line(port: &Value) -> String {
    format!("{}\n", number(&port["id"]))
}

fn table(ports: &[Value]) -> String {
    let mut text = "ID\tPROTO\tPARENTIP\tPARENTPORT\tCHILDIP\tCHILDPORT\t\n".to_owned();
    for port in ports {
        let spec = &port["spec"];
        text.push_str(&format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t\n",
            number(&port["id"]),
            word(&spec["proto"]),
            word(&spec["parentIP"]),
            number(&spec["parentPort"]),
            word(&spec["childIP"]),
            number(&spec["childPort"]),
        ));
    }
    output::aligned(&text, 4)
}

/// A word that may be absent.
pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number that may be absent.
pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}
