//! The user's systemd, on its own socket: it works without the session bus, and while that stops.

use std::{io, path::Path, time::Duration};

use crate::sys::cgroup;
use futures_util::StreamExt;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant, Variant, proxy};

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

/// A connection to the user's systemd.
#[derive(Clone, Debug)]
pub struct Systemd {
    connection: Connection,
    manager: ManagerProxy<'static>,
}

impl Systemd {
    /// Connect to the systemd of the user whose runtime directory this is; `None` where there is
    /// none, as in a container or under another init.
    pub async fn connect(runtime_dir: &Path) -> io::Result<Option<Self>> {
        let socket = runtime_dir.join("systemd/private");
        if !socket.exists() || !Path::new("/run/systemd/system").exists() {
            return Ok(None);
        }
        let address = format!("unix:path={}", socket.display());
        let connection = zbus::connection::Builder::address(address.as_str())
            .p2p()
            .method_timeout(TIMEOUT)
            .build()
            .await
            .map_err(other)?;
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(other)?;
        manager.subscribe().await.map_err(other)?;
        Ok(Some(Self { connection, manager }))
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
        let removed = self.manager.receive_job_removed().await.map_err(other)?;
        let job = self
            .manager
            .start_transient_unit(name, "fail", &properties, &[])
            .await
            .map_err(other)?;
        wait(removed, &job, name).await
    }

    /// Start a unit, without waiting for it.
    pub async fn start_unit(&self, name: &str) -> io::Result<()> {
        self.manager.start_unit(name, "fail").await.map_err(other)?;
        Ok(())
    }

    /// Stop a unit, without waiting for it.
    pub async fn begin_stop(&self, name: &str) -> io::Result<()> {
        self.manager.stop_unit(name, "replace").await.map_err(other)?;
        Ok(())
    }

    /// Stop a unit, with all of its processes, and wait for it. That there is none is no error.
    pub async fn stop_unit(&self, name: &str) -> io::Result<()> {
        let removed = self.manager.receive_job_removed().await.map_err(other)?;
        match self.manager.stop_unit(name, "replace").await {
            Ok(job) => wait(removed, &job, name).await,
            Err(error) if is_no_such_unit(&error) => Ok(()),
            Err(error) => Err(other(error)),
        }
    }

    /// End all processes of a unit for good, those of units below it too. That there is no such
    /// unit is no error.
    pub async fn kill_cgroup(&self, name: &str) -> io::Result<()> {
        let unit = self.manager.load_unit(name).await.map_err(other)?;
        let interface = if name.ends_with(".slice") {
            "org.freedesktop.systemd1.Slice"
        } else {
            "org.freedesktop.systemd1.Scope"
        };
        let group = self.property(&unit, interface, "ControlGroup").await?;
        let group = String::try_from(group).map_err(other)?;
        if group.is_empty() {
            return Ok(());
        }
        match cgroup::kill(&group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Linux before 5.14, or cgroup v1.
                let killed = self.manager.kill_unit(name, "all", nix::libc::SIGKILL).await;
                killed.or_else(
                    |error| if is_no_such_unit(&error) { Ok(()) } else { Err(other(error)) },
                )
            }
            result => result,
        }
    }

    /// What systemd is about to do with a unit: `stop`, `restart` …; `None` for nothing.
    pub async fn job_type(&self, name: &str) -> io::Result<Option<String>> {
        let unit = self.manager.load_unit(name).await.map_err(other)?;
        let job = self.property(&unit, "org.freedesktop.systemd1.Unit", "Job").await?;
        let (id, path): (u32, OwnedObjectPath) = job.try_into().map_err(other)?;
        if id == 0 {
            return Ok(None);
        }
        let kind = self.property(&path, "org.freedesktop.systemd1.Job", "JobType").await?;
        String::try_from(kind).map(Some).map_err(other)
    }

    /// Where a unit's file is; empty for a unit that has none.
    pub async fn fragment_path(&self, name: &str) -> io::Result<String> {
        let unit = self.manager.load_unit(name).await.map_err(other)?;
        let path = self.property(&unit, "org.freedesktop.systemd1.Unit", "FragmentPath").await?;
        String::try_from(path).map_err(other)
    }

    async fn property(
        &self,
        object: &OwnedObjectPath,
        interface: &str,
        property: &str,
    ) -> io::Result<OwnedVariant> {
        let properties = PropertiesProxy::builder(&self.connection)
            .path(object.clone())
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(other)?;
        properties.get(interface, property).await.map_err(other)
    }
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
