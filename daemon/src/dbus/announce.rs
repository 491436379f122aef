//! What changed, told to the bus: exactly what, in the order in which it happened.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use rootlessd_api::{
    Event, Job, JobResult, JobState, Status,
    dbus::helper as dict,
    names::{ENGINE_INTERFACE, JOB_INTERFACE, JOB_PATH, OBJECT_PATH, PORTS_INTERFACE},
};
use tokio::sync::{Mutex, watch};
use zbus::{
    Connection, ObjectPath, OwnedObjectPath, Variant, fdo, names::InterfaceName,
    object_server::SignalEmitter,
};

use super::{engine::Engine, events::Events, gate::Gate, job::JobObject, values};
use crate::supervisor::handle::Handle;

/// The path of a job's object.
pub fn job_path(id: u32) -> OwnedObjectPath {
    ObjectPath::from_string_unchecked(format!("{JOB_PATH}/{id}")).into()
}

/// What one connection was told. It does not hold the connection, whose objects hold it.
#[derive(Debug)]
pub struct Announcer {
    handle: Handle,
    gate: Gate,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    status: Arc<Status>,
    jobs: BTreeMap<u32, watch::Sender<Job>>,
}

impl Announcer {
    /// Nothing is told yet; who reads the properties gets the present status.
    pub fn new(handle: Handle, gate: Gate) -> Self {
        let told = Told { status: handle.status(), jobs: BTreeMap::new() };
        Self { handle, gate, told: Mutex::new(told) }
    }

    /// Tell what changed in the status.
    pub async fn status(&self, connection: &Connection) -> zbus::Result<()> {
        self.tell_status(connection, &mut *self.told.lock().await).await
    }

    /// Tell of a job if it is new, and if it is finished. It does not matter how often and from
    /// where this is called: each is told once.
    pub async fn job(&self, connection: &Connection, job: &Job) -> zbus::Result<()> {
        let told = &mut *self.told.lock().await;
        if !told.jobs.contains_key(&job.id) {
            self.add(connection, told, job).await?;
            let engine = emitter(connection, OBJECT_PATH)?;
            Engine::job_new(&engine, job.id, job_path(job.id).into(), job.kind.as_str()).await?;
            if job.state == JobState::Finished {
                self.tell_end(connection, told, job).await?;
            }
        } else if told.jobs.get(&job.id).is_some_and(|known| is_news(&known.borrow(), job)) {
            self.tell_end(connection, told, job).await?;
        }
        Ok(())
    }

    /// Begin with the present: what happened before the connection was made is no news to anybody.
    pub async fn begin(&self, connection: &Connection) -> zbus::Result<()> {
        let Ok(jobs) = self.handle.jobs().await else { return Ok(()) };
        let told = &mut *self.told.lock().await;
        told.status = self.handle.status();
        for job in &jobs {
            if !told.jobs.contains_key(&job.id) {
                self.add(connection, told, job).await?;
            }
        }
        Ok(())
    }

    /// Have an object for every job that the supervisor lists, and for no other.
    pub async fn sync(&self, connection: &Connection) -> zbus::Result<()> {
        let Ok(jobs) = self.handle.jobs().await else { return Ok(()) };
        for job in &jobs {
            self.job(connection, job).await?;
        }
        // A job can have begun since the list was made; it has a higher number.
        let newest = jobs.iter().map(|job| job.id).max().unwrap_or(0);
        let listed = |id| jobs.iter().any(|job| job.id == id);
        let told = &mut *self.told.lock().await;
        let gone: Vec<u32> =
            told.jobs.keys().copied().filter(|&id| id < newest && !listed(id)).collect();
        for id in gone {
            told.jobs.remove(&id);
            connection.object_server().remove::<JobObject, _>(job_path(id)).await?;
        }
        Ok(())
    }

    /// Tell what happened, after what it brought about.
    pub async fn events(&self, connection: &Connection, events: &[Arc<Event>]) -> zbus::Result<()> {
        self.status(connection).await?;
        let object = emitter(connection, OBJECT_PATH)?;
        for event in events {
            Events::tell(&object, event).await?;
        }
        Ok(())
    }

    async fn add(&self, connection: &Connection, told: &mut Told, job: &Job) -> zbus::Result<()> {
        let (sender, receiver) = watch::channel(job.clone());
        let object = JobObject::new(self.gate.clone(), receiver);
        connection.object_server().at(job_path(job.id), object).await?;
        told.jobs.insert(job.id, sender);
        Ok(())
    }

    async fn tell_end(
        &self,
        connection: &Connection,
        told: &mut Told,
        job: &Job,
    ) -> zbus::Result<()> {
        // What the job brought about came before its end.
        self.tell_status(connection, told).await?;
        let path = job_path(job.id);
        let result = values::text(job.result.map(JobResult::as_str));
        if let Some(known) = told.jobs.get(&job.id)
            && is_news(&known.send_replace(job.clone()), job)
        {
            let changed = HashMap::from([
                ("State", job.state.as_str().into()),
                ("Result", result.clone().into()),
                ("Error", values::error(job.error.as_ref()).into()),
            ]);
            tell(&emitter(connection, path.as_ref())?, JOB_INTERFACE, changed).await?;
        }
        let engine = emitter(connection, OBJECT_PATH)?;
        Engine::job_removed(&engine, job.id, path.into(), job.kind.as_str(), &result).await
    }

    async fn tell_status(&self, connection: &Connection, told: &mut Told) -> zbus::Result<()> {
        let now = self.handle.status();
        let changed = values::changes(&told.status, &now);
        let ports = (told.status.granted_ports != now.granted_ports)
            .then(|| HashMap::from([("Granted", dict::ports(&now.granted_ports).into())]));
        told.status = now;
        let object = emitter(connection, OBJECT_PATH)?;
        if !changed.is_empty() {
            tell(&object, ENGINE_INTERFACE, changed).await?;
        }
        match ports {
            Some(ports) => tell(&object, PORTS_INTERFACE, ports).await,
            None => Ok(()),
        }
    }
}

fn is_news(known: &Job, job: &Job) -> bool {
    known.state != JobState::Finished && job.state == JobState::Finished
}

fn emitter<'p, P>(connection: &Connection, path: P) -> zbus::Result<SignalEmitter<'p>>
where
    P: TryInto<ObjectPath<'p>>,
    P::Error: Into<zbus::Error>,
{
    SignalEmitter::new(connection, path)
}

/// Tell of all changes in one signal: who reads it never sees half of them.
async fn tell(
    emitter: &SignalEmitter<'_>,
    interface: &'static str,
    changed: HashMap<&str, Variant<'_>>,
) -> zbus::Result<()> {
    let interface = InterfaceName::from_static_str_unchecked(interface);
    fdo::Properties::properties_changed(emitter, interface, changed, Cow::Borrowed(&[])).await
}
