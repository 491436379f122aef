//! `rootlessd-helper`, which is on the system bus where it is installed: a connection a call, since
//! there are a few in an engine's life.

use std::{collections::BTreeSet, time::Duration};

use rootlessd_api::{
    Error, ErrorKind, Port,
    dbus::helper::{Dict, HelperProxy, no_answer, to_grants, to_outcome},
    helper::Outcome,
};
use tokio::time::timeout;
use zbus::{
    Address,
    connection::Builder,
    proxy::{CacheProperties, MethodFlags},
};

/// What the helper may take where nobody is asked. It is started for the call, and an engine waits.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What it may take where somebody is: it gives up after two minutes itself.
const PERSON: Duration = Duration::from_secs(150);

/// The helper, where there is one.
#[derive(Clone, Debug)]
pub struct Helper {
    bus: Option<Address>,
}

impl Helper {
    /// On the machine's system bus.
    pub fn of_machine() -> Self {
        Self { bus: Address::system().ok() }
    }

    /// On a bus, such as a test's.
    pub const fn on(bus: Address) -> Self {
        Self { bus: Some(bus) }
    }

    /// Let the engine, whose scope is new, listen on the ports that its user was granted; which.
    pub async fn attach_grants(&self) -> Result<BTreeSet<Port>, Error> {
        soon(async { ports(&self.connect().await?.attach_grants().await?) }).await
    }

    /// The ports that the user was granted.
    pub async fn granted(&self) -> Result<BTreeSet<Port>, Error> {
        soon(async {
            let grants = to_grants(self.connect().await?.list_grants().await?)?;
            Ok(grants.into_iter().flat_map(|grant| grant.ports).collect())
        })
        .await
    }

    /// Ask for ports. Whether a person may be asked is the caller's to say.
    pub async fn request(
        &self,
        ports: &BTreeSet<Port>,
        interactive: bool,
    ) -> Result<Outcome, Error> {
        let ports: Vec<_> = ports.iter().map(|it| (it.protocol.as_str(), it.number)).collect();
        let (flags, limit) = match interactive {
            true => (MethodFlags::ALLOW_INTERACTIVE_AUTH, PERSON),
            false => (MethodFlags::empty(), TIMEOUT),
        };
        within(limit, async {
            let helper = self.connect().await?;
            let answer: Option<Dict> =
                helper.inner().call_with_flags("GrantPorts", flags, &(ports,)).await?;
            to_outcome(answer.ok_or_else(no_answer)?)
        })
        .await
    }

    async fn connect(&self) -> Result<HelperProxy<'static>, Error> {
        let unreachable = |why: String| {
            Error::new(ErrorKind::HelperMissing, format!("the system bus cannot be reached: {why}"))
        };
        let bus = self.bus.clone().ok_or_else(|| unreachable("it has no address".into()))?;
        let bus = Builder::address(bus).build().await;
        let bus = bus.map_err(|error| unreachable(error.to_string()))?;
        Ok(HelperProxy::builder(&bus).cache_properties(CacheProperties::No).build().await?)
    }
}

async fn soon<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    within(TIMEOUT, call).await
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(no_answer()))
}

fn ports(ports: &[(String, u16)]) -> Result<BTreeSet<Port>, Error> {
    let port = |(protocol, number): &(String, u16)| Port::new(protocol, *number);
    ports
        .iter()
        .map(port)
        .collect::<Result<_, _>>()
        .map_err(|why| Error::new(ErrorKind::Internal, format!("the helper names no port: {why}")))
}
