//! `ports`: what containers publish, and what lets them.

use rootlessd_api::{PublishedPort, helper::Grant};
use serde_json::{Value, json};

use super::helper;
use crate::{
    cli::Patience, exit::Exit, failure::Failure, human::printable, output, supervisor::Supervisor,
};

/// Shows the published ports, and those that are granted.
pub async fn list(patience: Patience, json: bool) -> Result<Exit, Failure> {
    let supervisor = Supervisor::find(patience.timeout)?;
    let mut client = supervisor.connect().await?;
    let ports = supervisor.answer(client.list_ports()).await?;
    // Without a helper there is nothing granted to be told of.
    let grants = helper::grants_briefly().await;
    if json {
        output::json(&as_json(&ports, grants.as_deref()))?;
    } else {
        output::text(&table(&ports, grants.as_deref().unwrap_or_default()))?;
    }
    Ok(Exit::Ok)
}

fn as_json(ports: &[PublishedPort], grants: Option<&[Grant]>) -> Value {
    let granted = |grants: &[Grant]| -> Vec<Value> {
        let ports =
            grants.iter().flat_map(|grant| grant.ports.iter().map(move |port| (grant, port)));
        let one = |(grant, port): (&Grant, &rootlessd_api::Port)| json!({ "protocol": port.protocol, "port": port.number, "grant": grant.id });
        ports.map(one).collect()
    };
    json!({ "ports": ports, "granted": grants.map(granted) })
}

fn table(ports: &[PublishedPort], grants: &[Grant]) -> String {
    let published = |port| ports.iter().any(|published| published.port == port);
    let granted = grants.iter().flat_map(|grant| &grant.ports).filter(|port| !published(**port));
    let mut text = "PORT\tADDRESS\tLEADS TO\tPRIVILEGED\tBY\n".to_owned();
    let empty = text.len();
    for PublishedPort { port, address, child_port, privileged, by } in ports {
        let address = printable(address);
        let by = match (privileged, by) {
            (_, Some(by)) => by.as_str(),
            (true, None) => "?",
            (false, None) => "",
        };
        let privileged = if *privileged { "yes" } else { "no" };
        text.push_str(&format!("{port}\t{address}\t{child_port}\t{privileged}\t{by}\n"));
    }
    for port in granted {
        text.push_str(&format!("{port}\t\t\tyes\tgrant, but not published\n"));
    }
    if text.len() == empty {
        return "No port is published.\n".to_owned();
    }
    let aligned = output::aligned(&text, 2);
    aligned.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn published() -> Vec<PublishedPort> {
        let ports = json!([
            {"protocol": "tcp", "port": 80, "address": "0.0.0.0", "childPort": 80,
             "privileged": true, "by": "grant"},
            {"protocol": "tcp", "port": 22, "address": "::", "childPort": 2222,
             "privileged": true},
            {"protocol": "tcp", "port": 8080, "address": "127.0.0.1", "childPort": 8000,
             "privileged": false},
        ]);
        serde_json::from_value(ports).unwrap()
    }

    #[test]
    fn published_ports_come_first_and_then_what_is_granted_besides() {
        assert_eq!(
            table(&published(), &samples::grants()),
            "\
PORT      ADDRESS    LEADS TO  PRIVILEGED  BY
80/tcp    0.0.0.0    80        yes         grant
22/tcp    ::         2222      yes         ?
8080/tcp  127.0.0.1  8000      no
443/udp                        yes         grant, but not published
"
        );
        assert_eq!(table(&[], &[]), "No port is published.\n");
    }

    #[test]
    fn json_has_both_and_null_without_a_helper() {
        let value = as_json(&published(), Some(&samples::grants()));
        assert_eq!(value["ports"][0]["childPort"], 80);
        assert_eq!(
            value["granted"][1],
            json!({"protocol": "udp", "port": 443, "grant": "3f2ab000aaaaaaaaaaaaaaaaaaaaaaaa"})
        );
        assert_eq!(as_json(&[], None), json!({"ports": [], "granted": null}));
    }
}
