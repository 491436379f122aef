//! The machine's systemd, over the system bus.

use rootlessd_api::{Error, ErrorKind};
use zbus::{Connection, OwnedObjectPath, proxy, proxy::CacheProperties};

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn reload(&self) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn disable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
    ) -> zbus::Result<Vec<(String, String, String)>>;
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
}

/// systemd, if the machine has it and a bus to reach it by.
#[derive(Clone, Debug)]
pub struct Systemd {
    bus: Option<Connection>,
}

impl Systemd {
    /// By a connection, if there is one.
    pub const fn new(bus: Option<Connection>) -> Self {
        Self { bus }
    }

    /// Its version.
    pub async fn version(&self) -> Result<u32, Error> {
        let version = self.manager().await?.version().await.map_err(failed)?;
        // Such as "257.9-1~deb13u1".
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| {
            Error::new(ErrorKind::System, format!("systemd calls its version {version:?}"))
        })
    }

    /// Has it read its units again.
    pub async fn reload(&self) -> Result<(), Error> {
        self.manager().await?.reload().await.map_err(failed)
    }

    /// Has a unit started, now and at every boot.
    pub async fn enable(&self, unit: &str) -> Result<(), Error> {
        let manager = self.manager().await?;
        manager.enable_unit_files(&[unit], false, false).await.map_err(failed)?;
        manager.reload().await.map_err(failed)?;
        manager.start_unit(unit, "replace").await.map_err(failed)?;
        Ok(())
    }

    /// Has it stopped, and not started any more.
    pub async fn disable(&self, unit: &str) -> Result<(), Error> {
        let manager = self.manager().await?;
        manager.disable_unit_files(&[unit], false).await.map_err(failed)?;
        manager.reload().await.map_err(failed)?;
        manager.stop_unit(unit, "replace").await.map_err(failed)?;
        Ok(())
    }

    async fn manager(&self) -> Result<ManagerProxy<'_>, Error> {
        let Some(bus) = &self.bus else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "no systemd can be reached here, so that there is nothing to delegate from",
            ));
        };
        let builder = ManagerProxy::builder(bus).cache_properties(CacheProperties::No);
        builder.build().await.map_err(failed)
    }
}

fn failed(error: zbus::Error) -> Error {
    Error::new(ErrorKind::System, format!("systemd did not do it: {error}"))
}
