//! The directory of the running engine, `$XDG_RUNTIME_DIR/rootlessd/engine`: what its processes and
//! a later rootlessd have to find. It is made for each engine and removed after its end.

use std::{
    fs::File,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{FallocateFlags, fallocate};
use rootlessd_api::{Death, names};
use serde::{Deserialize, Serialize};

use super::userland_proxy;
use crate::{
    plan::Plan,
    sys::{files, process::Identity},
};

/// How often to look for a death where the kernel does not tell of files: the engine's end itself is seen
/// without them.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How many bytes are kept in reserve.
const RESERVE: nix::libc::off_t = 32 << 10;

/// The paths of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineDir(PathBuf);

/// What a later rootlessd has to know to find the engine again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `engine-shim`.
    pub shim: Identity,
}

/// Why engine-init ended the network helper or RootlessKit: a word for engine-shim, which sees it die.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hung {
    /// Which process.
    pub process: Identity,
    /// Why.
    pub text: String,
}

impl EngineDir {
    /// Below `$XDG_RUNTIME_DIR`.
    pub fn below(xdg_runtime_dir: &Path) -> Self {
        Self(names::runtime_dir(xdg_runtime_dir).join("engine"))
    }

    /// At a path that was made by [`Self::path`].
    pub const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Make it, empty.
    pub fn make(&self) -> io::Result<()> {
        self.remove()?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Remove it.
    pub fn remove(&self) -> io::Result<()> {
        files::remove_tree(&self.0)
    }

    /// engine-init's control socket.
    pub fn init_socket(&self) -> PathBuf {
        self.0.join("init.sock")
    }

    /// Where containerd and dockerd say that they are ready.
    pub fn notify_socket(&self) -> PathBuf {
        self.0.join("notify.sock")
    }

    /// The directory that dockerd takes for RootlessKit's, with our `api.sock`.
    pub fn port_proxy(&self) -> PathBuf {
        self.0.join("rootlesskit")
    }

    /// What dockerd starts for docker-proxy.
    pub fn userland_proxy(&self) -> PathBuf {
        self.port_proxy().join(userland_proxy::NAME)
    }

    /// dockerd's configuration: the user's and ours.
    pub fn dockerd_config(&self) -> PathBuf {
        self.0.join("dockerd.json")
    }

    /// containerd's configuration.
    pub fn containerd_config(&self) -> PathBuf {
        self.0.join("containerd.toml")
    }

    /// The plan.
    pub fn read_plan(&self) -> io::Result<Option<Plan>> {
        files::read_json(&self.0.join("plan.json"))
    }

    /// Write the plan.
    pub fn write_plan(&self, plan: &Plan) -> io::Result<()> {
        files::replace_json(&self.0.join("plan.json"), plan)
    }

    /// The record of the engine.
    pub fn read_record(&self) -> io::Result<Option<Record>> {
        files::read_json(&self.0.join("engine.json"))
    }

    /// Write the record of the engine.
    pub fn write_record(&self, record: &Record) -> io::Result<()> {
        files::replace_json(&self.0.join("engine.json"), record)
    }

    /// Remove the record of the engine: it ended as it should.
    pub fn remove_record(&self) -> io::Result<()> {
        files::remove(&self.0.join("engine.json"))
    }

    /// What happened to single parts of it.
    pub fn incidents(&self) -> PathBuf {
        self.0.join("incidents.jsonl")
    }

    /// How the engine died, if it did so itself: `engine-init` and `engine-shim` write it.
    pub fn read_death(&self) -> io::Result<Option<Death>> {
        files::read_json(&self.death())
    }

    /// Write how the engine died, unless that is known already: the first part to die is the cause,
    /// what follows is its effect.
    pub fn write_death(&self, death: &Death) -> io::Result<()> {
        if self.death().exists() {
            return Ok(());
        }
        files::replace_json(&self.death(), death).or_else(|error| {
            // Its file system is full: the engine may die of just that.
            files::remove(&self.reserve()).map_err(|_| error)?;
            files::replace_json(&self.death(), death)
        })
    }

    /// Keep room for what is still to be written when its file system is full: how the engine died.
    pub fn keep_reserve(&self) -> io::Result<()> {
        let file = File::create(self.reserve())?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE)?)
    }

    fn reserve(&self) -> PathBuf {
        self.0.join("reserve")
    }

    /// Wait until somebody writes down how the engine dies.
    pub fn dies(&self) -> impl Future<Output = ()> + use<> {
        let (directory, death) = (self.0.clone(), self.death());
        async move { files::until_in(&directory, LOOK_INTERVAL, || death.exists()).await }
    }

    /// Why this process, which is dead, was ended, if it was. It is told once.
    pub fn take_why_ended(&self, process: Identity) -> Option<String> {
        let path = self.hung();
        let hung: Hung = files::read_json(&path).ok().flatten()?;
        if hung.process != process {
            return None;
        }
        let _ = files::remove(&path);
        Some(hung.text)
    }

    /// Write why a process of engine-shim's is about to be ended.
    pub fn write_hung(&self, hung: &Hung) -> io::Result<()> {
        files::replace_json(&self.hung(), hung)
    }

    fn hung(&self) -> PathBuf {
        self.0.join("hung.json")
    }

    fn death(&self) -> PathBuf {
        self.0.join("death.json")
    }
}
