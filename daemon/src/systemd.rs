//! The user's systemd, over the session bus, where runc talks to it too: without that bus containers
//! get no scopes, and an engine in one of its own would be of no use.
//!
//! (systemd's private socket would do without a bus; but there it signs its messages with a name
//! that the D-Bus specification does not allow, and zbus refuses them.)

use std::{io, path::Path, time::Duration};

use crate::sys::cgroup;
use futures_util::StreamExt;
use zbus::{Address, ObjectPath, OwnedObjectPath, OwnedVariant, Variant, proxy};

/// systemd answers in milliseconds; this is for one that does not answer at all.
const TIMEOUT: Duration = Duration::from_secs(10);

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        auxiliary: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

#[proxy(
    interface = "org.freedesktop.DBus.Properties",
    default_service = "org.freedesktop.systemd1"
)]
trait Properties {
    fn get(&self, interface: &str, property: &str) -> zbus::Result<OwnedVariant>;
}

/// The user's systemd. Each call has a connection of its own: there are a few in an engine's life,
/// and a bus that was restarted in between does not matter.
#[derive(Clone, Debug)]
pub struct Systemd {
    address: Address,
}

impl Systemd {
    /// Find the systemd of the user whose runtime directory and session bus these are; `None` where
    /// there is none, as in a container or under another init.
    pub async fn find(runtime_dir: &Path, address: &Address) -> io::Result<Option<Self>> {
        let private = runtime_dir.join("systemd/private");
        if !private.exists() || !Path::new("/run/systemd/system").exists() {
            return Ok(None);
        }
        let systemd = Self { address: address.clone() };
        systemd.manager().await?;
        Ok(Some(systemd))
    }

    async fn manager(&self) -> io::Result<ManagerProxy<'static>> {
        let builder = zbus::connection::Builder::address(self.address.clone());
        let connected = builder.method_timeout(TIMEOUT).build();
        // A bus that does not say hello would hold up every start and stop.
        let connection = tokio::time::timeout(TIMEOUT, connected)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .map_err(other)?;
        ManagerProxy::builder(&connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(other)
    }

    /// Put a process into a new scope, with everything that it will start.
    ///
    /// The scope is stopped after `rootlessd.service` (`Before=` of a start is after of a stop), so
    /// that the engine is stopped in order at logout instead of all at once.
    pub async fn start_scope(&self, name: &str, slice: &str, pid: u32) -> io::Result<()> {
        let properties = [
            ("Description", Variant::from("Rootless Docker")),
            ("PIDs", Variant::from(vec![pid])),
            ("Slice", Variant::from(slice)),
            ("Delegate", Variant::from(true)),
            ("Before", Variant::from(vec!["rootlessd.service"])),
            ("CollectMode", Variant::from("inactive-or-failed")),
            ("TasksMax", Variant::from(u64::MAX)),
        ];
        let manager = self.manager().await?;
        manager.subscribe().await.map_err(other)?;
        let removed = manager.receive_job_removed().await.map_err(other)?;
        let job =
            manager.start_transient_unit(name, "fail", &properties, &[]).await.map_err(other)?;
        wait(removed, &job, name).await
    }

    /// Start a unit, and wait for it.
    pub async fn start_unit(&self, name: &str) -> io::Result<()> {
        let manager = self.manager().await?;
        manager.subscribe().await.map_err(other)?;
        let removed = manager.receive_job_removed().await.map_err(other)?;
        let job = manager.start_unit(name, "fail").await.map_err(other)?;
        wait(removed, &job, name).await
    }

    /// Stop a unit, without waiting for it.
    pub async fn begin_stop(&self, name: &str) -> io::Result<()> {
        self.manager().await?.stop_unit(name, "replace").await.map_err(other)?;
        Ok(())
    }

    /// Restart a unit and what requires it, without waiting for it.
    pub async fn begin_restart(&self, name: &str) -> io::Result<()> {
        self.manager().await?.restart_unit(name, "replace").await.map_err(other)?;
        Ok(())
    }

    /// Stop a unit, with all of its processes, and wait for it. That there is none is no error.
    pub async fn stop_unit(&self, name: &str) -> io::Result<()> {
        let manager = self.manager().await?;
        manager.subscribe().await.map_err(other)?;
        let removed = manager.receive_job_removed().await.map_err(other)?;
        match manager.stop_unit(name, "replace").await {
            Ok(job) => wait(removed, &job, name).await,
            Err(error) if is_no_such_unit(&error) => Ok(()),
            Err(error) => Err(other(error)),
        }
    }

    /// End all processes of a unit for good, those of units below it too. That there is no such
    /// unit is no error.
    pub async fn kill_cgroup(&self, name: &str) -> io::Result<()> {
        let manager = self.manager().await?;
        let unit = manager.load_unit(name).await.map_err(other)?;
        let interface = if name.ends_with(".slice") {
            "org.freedesktop.systemd1.Slice"
        } else {
            "org.freedesktop.systemd1.Scope"
        };
        let group = property(&manager, &unit, interface, "ControlGroup").await?;
        let group = String::try_from(group).map_err(other)?;
        if group.is_empty() {
            return Ok(());
        }
        match cgroup::kill(&group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Linux before 5.14, or cgroup v1.
                let killed = manager.kill_unit(name, "all", nix::libc::SIGKILL).await;
                killed.or_else(
                    |error| if is_no_such_unit(&error) { Ok(()) } else { Err(other(error)) },
                )
            }
            result => result,
        }
    }

    /// What systemd is about to do with a unit: `stop`, `restart` …; `None` for nothing.
    pub async fn job_type(&self, name: &str) -> io::Result<Option<String>> {
        let manager = self.manager().await?;
        let unit = manager.load_unit(name).await.map_err(other)?;
        let job = property(&manager, &unit, "org.freedesktop.systemd1.Unit", "Job").await?;
        let (id, path): (u32, OwnedObjectPath) = job.try_into().map_err(other)?;
        if id == 0 {
            return Ok(None);
        }
        let kind = property(&manager, &path, "org.freedesktop.systemd1.Job", "JobType").await?;
        String::try_from(kind).map(Some).map_err(other)
    }

    /// Where a unit's file is; empty for a unit that has none.
    pub async fn fragment_path(&self, name: &str) -> io::Result<String> {
        let manager = self.manager().await?;
        let unit = manager.load_unit(name).await.map_err(other)?;
        let path =
            property(&manager, &unit, "org.freedesktop.systemd1.Unit", "FragmentPath").await?;
        String::try_from(path).map_err(other)
    }
}

async fn property(
    manager: &ManagerProxy<'_>,
    object: &OwnedObjectPath,
    interface: &str,
    property: &str,
) -> io::Result<OwnedVariant> {
    let properties = PropertiesProxy::builder(manager.inner().connection())
        .path(object.clone())
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await
        .map_err(other)?;
    properties.get(interface, property).await.map_err(other)
}

async fn wait(mut removed: JobRemovedStream, job: &OwnedObjectPath, unit: &str) -> io::Result<()> {
    let finished = async {
        while let Some(signal) = removed.next().await {
            let arguments = signal.args().map_err(other)?;
            if arguments.job == **job {
                return match arguments.result {
                    "done" | "skipped" => Ok(()),
                    result => Err(io::Error::other(format!("systemd says of {unit}: {result}"))),
                };
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    tokio::time::timeout(TIMEOUT, finished)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn is_no_such_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..)
        if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}
