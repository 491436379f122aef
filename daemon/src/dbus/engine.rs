//! `org.rootlessd.Supervisor1.Engine`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use rootlessd_api::{JobKind, JobOptions, Phase, dbus::Failure};
use zbus::{
    Connection, ObjectPath, OwnedObjectPath, OwnedVariant, Variant, interface, message::Header,
    object_server::SignalEmitter,
};

use super::{
    announce::{Announcer, job_path},
    gate::Gate,
    values::{self, Dict},
};

/// The engine's object.
#[derive(Debug)]
pub struct Engine {
    gate: Gate,
    announcer: Arc<Announcer>,
}

impl Engine {
    /// The object, for one connection.
    pub fn new(gate: Gate, announcer: Arc<Announcer>) -> Self {
        Self { gate, announcer }
    }

    async fn begin(
        &self,
        kind: JobKind,
        options: HashMap<String, OwnedVariant>,
        connection: &Connection,
    ) -> Result<OwnedObjectPath, Failure> {
        let options = job_options(options)?;
        let (_permit, supervisor) = self.gate.enter()?;
        let job = supervisor.request(kind, options).await?;
        // Before the reply, so that its path is the path of an object, and `JobNew` was sent.
        self.announcer.job(connection, &job).await?;
        Ok(job_path(job.id))
    }
}

fn job_options(options: HashMap<String, OwnedVariant>) -> Result<JobOptions, Failure> {
    let mut known = JobOptions::default();
    for (name, value) in options {
        match (name.as_str(), &*value) {
            ("timeout", Variant::U64(timeout)) => known.timeout = Some(*timeout),
            ("timeout", other) => {
                let wrong = other.value_signature();
                return Err(Failure::invalid(format!("the option timeout is a t, not a {wrong}")));
            }
            ("keep_containers", Variant::Bool(keep)) => known.keep_containers = Some(*keep),
            ("keep_containers", other) => {
                let wrong = other.value_signature();
                let text = format!("the option keep_containers is a b, not a {wrong}");
                return Err(Failure::invalid(text));
            }
            _ => return Err(Failure::invalid(format!("there is no option {name:?}"))),
        }
    }
    Ok(known)
}

#[interface(name = "org.rootlessd.Supervisor1.Engine")]
impl Engine {
    /// Bring the engine up. Returns the path of a job (org.rootlessd.Supervisor1.Job) at once;
    /// JobRemoved tells when it is over: with the result "skipped" before this method returns, if
    /// the engine was up. While the engine is being stopped, the stop is replaced.
    ///
    /// options: "timeout" (t): after so many µs the job ends with the result "timeout", and the
    /// start goes on; 0 or absent: never. Who asks for what is being done already gets the same
    /// job, which then lasts for the longer of the two times.
    ///
    /// Errors: org.freedesktop.DBus.Error.InvalidArgs for any other option or type,
    /// org.rootlessd.Error.Busy if rootlessd itself is being stopped.
    #[zbus(out_args("job"))]
    async fn start(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Failure> {
        self.begin(JobKind::Start, options, connection).await
    }

    /// Take the engine down: its containers get their own stop signal and time. It stays down until
    /// somebody asks for it again or rootlessd starts anew. Arguments, job and errors are those of
    /// Start; a start that is under way is replaced.
    #[zbus(out_args("job"))]
    async fn stop(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Failure> {
        self.begin(JobKind::Stop, options, connection).await
    }

    /// Take the engine down and up again. Docker's socket stays, and clients are queued on it.
    /// Arguments, job and errors are those of Start.
    ///
    /// options: also "keep_containers" (b): replace containerd and dockerd only, under the
    /// containers, which go on. The job then is a "replacement", and over when dockerd is well again; it
    /// fails with org.rootlessd.Error.Unsupported where live-restore is off, and of an engine that an
    /// older rootlessd started. Where no engine runs, nothing can be kept, and it is a start; while
    /// it is on its way up or down, the error is org.rootlessd.Error.Busy.
    #[zbus(out_args("job"))]
    async fn restart(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Failure> {
        self.begin(JobKind::Restart, options, connection).await
    }

    /// Replace, under the containers, which go on, those of containerd and dockerd of which there is
    /// another file now than the one that runs. Without one, or without an engine, the job's result
    /// is "skipped". Arguments, job and errors are those of Restart with "keep_containers".
    #[zbus(out_args("job"))]
    async fn upgrade(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Failure> {
        self.begin(JobKind::Upgrade, options, connection).await
    }

    /// Read the configuration again, rootlessd's and dockerd's. What is only read at a start is
    /// told as one of the Reasons.
    ///
    /// Errors: org.rootlessd.Error.Config if it has a mistake; the old one then stays in force.
    // Without the header as an argument, zbus takes whatever arguments the caller sends.
    async fn reload(&self, #[zbus(header)] _call: Header<'_>) -> Result<(), Failure> {
        let (_permit, supervisor) = self.gate.enter()?;
        Ok(supervisor.reload().await?)
    }

    /// Forget the Deaths; from the state "failed", go to "listening", or to "stopped" with the
    /// configuration engine.start = "boot".
    async fn reset_failed(&self, #[zbus(header)] _call: Header<'_>) -> Result<(), Failure> {
        let (_permit, supervisor) = self.gate.enter()?;
        Ok(supervisor.reset_failed().await?)
    }

    /// What the engine is doing: "stopped", "listening" (not running, and the first client of
    /// Docker's socket starts it), "starting", "running", "degraded" (running, but a part does not
    /// do its work), "stopping", "backoff" (it died and is started again at NextAttempt) or "failed"
    /// (it died too often, or cannot start until somebody mends what Reasons name). Treat an unknown
    /// word as not running.
    #[zbus(property)]
    fn state(&self) -> String {
        self.gate.status().state.to_string()
    }

    /// What a starting or stopping engine is busy with: "preflight", "namespaces", "network",
    /// "containerd", "dockerd" or "containers"; empty in other states.
    #[zbus(property)]
    fn phase(&self) -> String {
        values::text(self.gate.status().phase.map(Phase::as_str))
    }

    /// What a person should know, the gravest first: "code" (s), a stable name; "part" (s), which
    /// part of the engine it is about; "text" (s), a sentence; "remedy" (s, may be absent), the
    /// command that mends it, or a sentence where no command does. Keys may be added.
    #[zbus(property)]
    fn reasons(&self) -> Vec<Dict> {
        values::reasons(&self.gate.status().reasons)
    }

    /// When the state began, in µs of CLOCK_REALTIME.
    #[zbus(property)]
    fn since(&self) -> u64 {
        self.gate.status().since
    }

    /// When the next start is tried, in µs of CLOCK_REALTIME; 0 in all states but "backoff".
    #[zbus(property)]
    fn next_attempt(&self) -> u64 {
        self.gate.status().next_attempt.unwrap_or(0)
    }

    /// The pid of RootlessKit's first process, or 0.
    #[zbus(property)]
    fn main_pid(&self) -> u32 {
        self.gate.status().main_pid.unwrap_or(0)
    }

    /// dockerd's version, or empty while it is not known.
    #[zbus(property)]
    fn version(&self) -> String {
        values::text(self.gate.status().version.as_ref())
    }

    /// The versions of "containerd", "runc" and "rootlesskit", each absent while it is not known.
    /// Keys may be added.
    #[zbus(property)]
    fn versions(&self) -> BTreeMap<&'static str, String> {
        values::versions(&self.gate.status())
    }

    /// The socket of Docker's API.
    #[zbus(property)]
    fn socket_path(&self) -> String {
        values::clean(&self.gate.status().socket_path)
    }

    /// The directory of images, volumes and containers, or empty while it is not known.
    #[zbus(property)]
    fn data_root(&self) -> String {
        values::text(self.gate.status().data_root.as_ref())
    }

    /// RootlessKit's state directory, with its api.sock, or empty while there is none.
    #[zbus(property)]
    fn state_dir(&self) -> String {
        values::text(self.gate.status().state_dir.as_ref())
    }

    /// What connects the namespaces to the network: "slirp4netns", "pasta", "vpnkit",
    /// "gvisor-tap-vsock" or "lxc-user-nic", or empty while it is not known.
    #[zbus(property)]
    fn network_driver(&self) -> String {
        values::text(self.gate.status().network_driver.as_ref())
    }

    /// What publishes ports: "builtin", "slirp4netns", "implicit", "gvisor-tap-vsock", "pesto" or
    /// "none", or empty while it is not known.
    #[zbus(property)]
    fn port_driver(&self) -> String {
        values::text(self.gate.status().port_driver.as_ref())
    }

    /// dockerd's storage driver, or empty while it is not known.
    #[zbus(property)]
    fn storage_driver(&self) -> String {
        values::text(self.gate.status().storage_driver.as_ref())
    }

    /// dockerd's cgroup driver: "systemd", "cgroupfs", or "none", which ignores every limit; empty
    /// while it is not known.
    #[zbus(property)]
    fn cgroup_driver(&self) -> String {
        values::text(self.gate.status().cgroup_driver.as_ref())
    }

    /// The cgroup controllers that the user may use.
    #[zbus(property)]
    fn controllers(&self) -> Vec<String> {
        values::cleaned(&self.gate.status().controllers)
    }

    /// How many containers run; 4294967295 while it is not known.
    #[zbus(property)]
    fn containers_running(&self) -> u32 {
        self.gate.status().containers_running.unwrap_or(values::UNKNOWN)
    }

    /// How often a client of Docker's socket has started the engine.
    #[zbus(property)]
    fn demand_starts(&self) -> u32 {
        self.gate.status().demand_starts
    }

    /// When a client of Docker's socket has started the engine last, in µs of CLOCK_REALTIME; 0 for
    /// never.
    #[zbus(property)]
    fn last_demand_start(&self) -> u64 {
        self.gate.status().last_demand_start.unwrap_or(0)
    }

    /// The engine's deaths since ResetFailed, the newest last, at most 20: "at" (t), in µs of
    /// CLOCK_REALTIME; "part" (s), the part that died first; "exit_code" (i) or "signal" (i), if that
    /// is known; "out_of_memory" (b), if the kernel killed it for that; "text" (s), a sentence; "log" (as), the last lines that the part wrote, with the
    /// newest death only. Keys may be added.
    #[zbus(property)]
    fn deaths(&self) -> Vec<Dict> {
        values::deaths(&self.gate.status().deaths)
    }

    /// What happened to single parts since ResetFailed, while the engine as a whole lived on, the
    /// newest last, at most 20: "at" (t), in µs of CLOCK_REALTIME; "part" (s); "kind" (s), "lost" (it
    /// died, or was ended, and is being replaced), "replaced" or "missing" (it cannot be replaced for
    /// now); "text" (s), a sentence; "took" (t, of "replaced" only), the µs since its loss. Keys and
    /// kinds may be added.
    #[zbus(property)]
    fn incidents(&self) -> Vec<Dict> {
        values::incidents(&self.gate.status().incidents)
    }

    /// The engine's processes: "part" (s), the part it belongs to; "pid" (u); "name" (s); "memory"
    /// (t), its proportional set size in bytes, or its resident set where the kernel keeps the
    /// former to itself. Looked up when it is read; changes are not announced. Keys may be added.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn processes(&self) -> Result<Vec<Dict>, Failure> {
        let (_permit, supervisor) = self.gate.enter()?;
        Ok(values::processes(&supervisor.full_status().await?.processes))
    }

    /// rootlessd's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn supervisor_version(&self) -> String {
        self.gate.status().supervisor.version.clone()
    }

    /// rootlessd's pid.
    #[zbus(property(emits_changed_signal = "const"))]
    fn supervisor_pid(&self) -> u32 {
        self.gate.status().supervisor.pid
    }

    /// When rootlessd started, in µs of CLOCK_REALTIME.
    #[zbus(property(emits_changed_signal = "const"))]
    fn supervisor_since(&self) -> u64 {
        self.gate.status().supervisor.since
    }

    /// Whether the engine runs in a scope of the user's systemd.
    #[zbus(property(emits_changed_signal = "const"))]
    fn systemd(&self) -> bool {
        self.gate.status().supervisor.systemd
    }

    /// A job began. id: its number, unique while rootlessd runs. job: the path of its object
    /// (org.rootlessd.Supervisor1.Job). kind: "start", "stop", "restart",
    /// "replacement" (a restart that keeps the containers) or "upgrade".
    #[zbus(signal)]
    pub async fn job_new(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        kind: &str,
    ) -> zbus::Result<()>;

    /// A job is over; its object stays for the last 16 of them. result: "done"; "skipped", there
    /// was nothing to do; "canceled", by somebody or by a contrary job; "timeout", the engine goes
    /// on; or "failed", the object's Error says why.
    #[zbus(signal)]
    pub async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        kind: &str,
        result: &str,
    ) -> zbus::Result<()>;
}
