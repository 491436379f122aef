//! `info`: RootlessKit's version, state directory and drivers.

use serde::Serialize as _;
use serde_json::{Serializer, Value, ser::PrettyFormatter};

use super::{
    connect, like_go,
    ports::{number, word},
};
use crate::{cli::Rootlesskit, exit::Exit, failure::Failure, output};

/// Show info about RootlessKit.
pub async fn info(options: &Rootlesskit, json: bool) -> Result<Exit, Failure> {
    let info = connect(options).await?.get("/v1/info").await?;
    output::text(&if json { as_json(&info)? } else { as_text(&info) })?;
    Ok(Exit::Ok)
}

fn as_json(info: &Value) -> Result<String, Failure> {
    let mut json = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    info.serialize(&mut Serializer::with_formatter(&mut json, formatter))
        .map_err(|error| Failure::Rootlesskit(error.to_string()))?;
    Ok(like_go(&format!("{}\n", String::from_utf8_lossy(&json))))
}

fn as_text(info: &Value) -> String {
    let mut text = format!(
        "- REST API version: {}\n- Implementation version: {}\n- State Directory: {}\n\
         - Child PID: {}\n",
        word(&info["apiVersion"]),
        word(&info["version"]),
        word(&info["stateDir"]),
        number(&info["childPID"]),
    );
    let network = &info["networkDriver"];
    if network.is_object() {
        text.push_str(&format!("- Network Driver: {}\n", word(&network["driver"])));
        text.push_str(&format!("  - DNS: {}\n", list(&network["dns"])));
        if let Some(address) = network["childIP"].as_str() {
            text.push_str(&format!("  - IP: {address}\n"));
        }
    }
    let port = &info["portDriver"];
    if port.is_object() {
        text.push_str(&format!("- Port Driver: {}\n", word(&port["driver"])));
        text.push_str(&format!("  - Supported protocols: {}\n", list(&port["protos"])));
    }
    text
}

/// A list as Go shows it.
fn list(value: &Value) -> String {
    let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
    format!("[{}]", words.iter().map(word).collect::<Vec<_>>().join(" "))
}
