//! `org.rootlessd.Supervisor1.Ports`.

use rootlessd_api::{
    Port,
    dbus::{Failure, helper as dict},
};
use zbus::{Variant, interface, message::Flags, message::Header};

use super::{
    gate::Gate,
    values::{self, Dict},
};

/// The interface of ports, on the engine's object.
#[derive(Debug)]
pub struct Ports {
    gate: Gate,
}

impl Ports {
    /// The interface, for one connection.
    pub const fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

#[interface(name = "org.rootlessd.Supervisor1.Ports")]
impl Ports {
    /// The ports that containers publish: "protocol" (s), "tcp" or "udp"; "port" (q), on the machine; "address"
    /// (s), such as "0.0.0.0"; "child_port" (q), where it leads to in the engine's network namespace; "privileged"
    /// (b), whether it is below 1024; "by" (s), what lets such a port be listened on, if that is known: "grant",
    /// "capability" or "sysctl". Keys and words may be added.
    #[zbus(out_args("ports"))]
    async fn list(&self) -> Result<Vec<Dict>, Failure> {
        let (_permit, supervisor) = self.gate.enter()?;
        Ok(values::published(&supervisor.list_ports().await?))
    }

    /// Have the user granted ports, by org.rootlessd.Helper1 on the system bus: each "tcp" or "udp" and a number. If
    /// the call allows interactive authorization, somebody is asked who may agree. Answers as GrantPorts of
    /// org.rootlessd.Helper1 does, and fails as that does, or with org.rootlessd.Error.HelperMissing.
    #[zbus(out_args("outcome"))]
    async fn request(
        &self,
        ports: Vec<(String, u16)>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<std::collections::HashMap<&'static str, Variant<'static>>, Failure> {
        let port = |(protocol, number): (String, u16)| Port::new(&protocol, number);
        let ports =
            ports.into_iter().map(port).collect::<Result<_, _>>().map_err(Failure::invalid)?;
        let interactive = header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
        let (_permit, supervisor) = self.gate.enter()?;
        Ok(dict::outcome(&supervisor.request_ports(ports, interactive).await?))
    }

    /// Look again at what is granted: somebody has changed it.
    async fn refresh(&self) -> Result<(), Failure> {
        let (_permit, supervisor) = self.gate.enter()?;
        Ok(supervisor.refresh_ports().await?)
    }

    /// The ports below 1024 that the user was granted: each "tcp" or "udp" and a number.
    #[zbus(property)]
    fn granted(&self) -> Vec<(String, u16)> {
        dict::ports(&self.gate.status().granted_ports)
    }
}
