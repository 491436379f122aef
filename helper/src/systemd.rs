//! The machine's systemd, over the system bus.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rootlessd_api::{Error, ErrorKind};
use zbus::{Connection, OwnedObjectPath, proxy, proxy::CacheProperties};

/// A reload takes systemd some tenths of a second, in which it does nothing else. So often may it be
/// asked for one in so long; one operation takes up to two.
const MOST_RELOADS: usize = 10;
const RELOADS_WITHIN: Duration = Duration::from_secs(10);

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
    reloads: Arc<Mutex<VecDeque<Instant>>>,
}

impl Systemd {
    /// By a connection, if there is one.
    pub fn new(bus: Option<Connection>) -> Self {
        Self { bus, reloads: Arc::default() }
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

    /// An error if it was asked to reload too often just now: before an operation that would again.
    pub fn spare(&self) -> Result<(), Error> {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.retain(|reload| reload.elapsed() < RELOADS_WITHIN);
        match reloads.len() {
            0..MOST_RELOADS => Ok(()),
            many => Err(Error::new(
                ErrorKind::LimitsExceeded,
                format!("systemd had to reload its units {many} times just now"),
            )
            .with_remedy("try again in ten seconds")),
        }
    }

    /// Has it read its units again.
    pub async fn reload(&self) -> Result<(), Error> {
        let manager = self.manager().await?;
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
        manager.reload().await.map_err(failed)
    }

    /// Has a unit started, now and at every boot.
    pub async fn enable(&self, unit: &str) -> Result<(), Error> {
        let manager = self.manager().await?;
        manager.enable_unit_files(&[unit], false, false).await.map_err(failed)?;
        self.reload().await?;
        manager.start_unit(unit, "replace").await.map_err(failed)?;
        Ok(())
    }

    /// Has it stopped, and not started any more.
    pub async fn disable(&self, unit: &str) -> Result<(), Error> {
        let manager = self.manager().await?;
        manager.disable_unit_files(&[unit], false).await.map_err(failed)?;
        self.reload().await?;
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
