//! The helper on a bus of the test's own, with a polkit that answers as the test says; the helper works
//! on a tree that stands for the machine.

use std::{
    collections::HashMap,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    sync::{Arc, Mutex},
};

use rootlessd_api::dbus::helper::HelperProxy;
use rootlessd_helper::{helper::Helper, root::Root, service, systemd::Systemd};
use serde_json::Value;
use tokio::{sync::Notify, task::JoinHandle};
use zbus::{Connection, OwnedVariant, connection::Builder, interface, proxy::CacheProperties};

use crate::bus::TestBus;

/// The setting of the first unprivileged port, below the tree.
pub const PORT_START: &str = "proc/sys/net/ipv4/ip_unprivileged_port_start";

/// What polkit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes, without asking anybody.
    Yes,
    /// No, without asking anybody.
    No,
    /// An administrator has to agree: yes, if somebody may be asked.
    Ask,
    /// The same, but there is nobody.
    NobodyThere,
    /// Somebody is asked, and does not answer.
    Never,
    /// No answer at all.
    Hang,
    /// An error.
    Fail,
}

/// A question that polkit was asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// What kind of subject it is about.
    pub kind: String,
    /// The subject's name on the bus.
    pub subject: String,
    /// Whether the subject may do this.
    pub action: String,
    /// What the question names.
    pub details: HashMap<String, String>,
    /// Whether somebody may be asked.
    pub interactive: bool,
}

/// An agent that was registered.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The process that it asks for.
    pub pid: u32,
    /// When that was started, in clock ticks since the machine was.
    pub start_time: u64,
    /// Whether another agent goes first.
    pub fallback: bool,
}

/// polkit's object.
#[derive(Clone, Debug)]
pub struct Polkit {
    answer: Arc<Mutex<Answer>>,
    questions: Arc<Mutex<Vec<Question>>>,
    agents: Arc<Mutex<Vec<Registration>>>,
    /// Told when a question is taken back.
    pub cancelled: Arc<Notify>,
}

#[interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    async fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedVariant>),
        action: String,
        details: HashMap<String, String>,
        flags: u32,
        _cancellation: String,
    ) -> zbus::fdo::Result<((bool, bool, HashMap<String, String>),)> {
        let interactive = flags & 1 == 1;
        let name = subject.1.get("name").and_then(|name| name.downcast_ref::<&str>().ok());
        self.questions.lock().expect("nobody panicked").push(Question {
            kind: subject.0.clone(),
            subject: name.unwrap_or_default().to_owned(),
            action,
            details,
            interactive,
        });
        let answer = *self.answer.lock().expect("nobody panicked");
        let (yes, challenge) = match answer {
            Answer::Yes => (true, false),
            Answer::No => (false, false),
            Answer::Ask => (interactive, !interactive),
            Answer::NobodyThere => (false, true),
            Answer::Never if !interactive => (false, true),
            Answer::Never | Answer::Hang => std::future::pending().await,
            Answer::Fail => return Err(zbus::fdo::Error::Failed("a rule throws".into())),
        };
        Ok(((yes, challenge, HashMap::new()),))
    }

    fn register_authentication_agent_with_options(
        &self,
        subject: (String, HashMap<String, OwnedVariant>),
        _locale: String,
        _object_path: String,
        options: HashMap<String, OwnedVariant>,
    ) {
        assert_eq!(subject.0, "unix-process");
        let number = |key: &str| subject.1[key].clone();
        self.agents.lock().expect("nobody panicked").push(Registration {
            pid: number("pid").try_into().expect("a pid"),
            start_time: number("start-time").try_into().expect("a time"),
            fallback: options["fallback"].clone().try_into().expect("a yes or no"),
        });
    }

    fn unregister_authentication_agent(
        &self,
        _subject: (String, HashMap<String, OwnedVariant>),
        _object_path: String,
    ) {
    }

    fn cancel_check_authorization(&self, _cancellation: String) {
        self.cancelled.notify_one();
    }
}

/// A bus, a polkit, a helper, and the tree that it works on.
#[derive(Debug)]
pub struct World {
    /// The tree; the bus is in it, too.
    pub tree: tempfile::TempDir,
    /// polkit.
    pub polkit: Polkit,
    /// The helper; ends when the helper does.
    pub helper: JoinHandle<zbus::Result<()>>,
    authority: Option<Connection>,
    bus: TestBus,
}

/// Whose calls the tests make. Root has nothing granted, so that it makes them as somebody else.
pub fn caller() -> u32 {
    match nix::unistd::geteuid() {
        root if root.is_root() => 1,
        own => own.as_raw(),
    }
}

impl World {
    /// A world whose polkit answers so.
    pub async fn new(answer: Answer) -> Self {
        Self::with(answer, true).await
    }

    /// The same, perhaps without a polkit.
    pub async fn with(answer: Answer, has_polkit: bool) -> Self {
        let tree = tempfile::tempdir().expect("a folder");
        for directory in ["etc/sysctl.d", "var/lib", "proc/sys/net/ipv4"] {
            fs::create_dir_all(tree.path().join(directory)).expect("a folder");
        }
        fs::write(tree.path().join(PORT_START), "1024\n").expect("the tree");
        fs::write(tree.path().join("proc/sys/net/ipv4/ping_group_range"), "1\t0\n")
            .expect("the tree");
        // Others find the bus in it.
        fs::set_permissions(tree.path(), PermissionsExt::from_mode(0o755)).expect("the tree");
        let socket = tree.path().join("bus");
        let bus = TestBus::daemon(&socket);
        let polkit = Polkit {
            answer: Arc::new(Mutex::new(answer)),
            questions: Arc::default(),
            agents: Arc::default(),
            cancelled: Arc::default(),
        };
        let connection = bus.connect().await;
        let root = Root::tree(tree.path()).expect("a folder");
        let helper = Helper::new(root, Systemd::new(None));
        let helper = tokio::spawn(async move { service::run(helper, &connection).await });
        let mut world = Self { tree, polkit, helper, authority: None, bus };
        if has_polkit {
            world.start_polkit().await;
        }
        world.named().await;
        world
    }

    /// The polkit is there from now on.
    pub async fn start_polkit(&mut self) {
        let connection = self.bus.connect().await;
        let path = "/org/freedesktop/PolicyKit1/Authority";
        connection.object_server().at(path, self.polkit.clone()).await.expect("the bus answers");
        connection.request_name("org.freedesktop.PolicyKit1").await.expect("the bus answers");
        self.authority = Some(connection);
    }

    /// The bus knows a polkit that it may start, and that takes its time.
    pub async fn install_slow_polkit(&self) {
        let services = self.tree.path().join("bus.services");
        fs::create_dir(&services).expect("the tree");
        let service = "[D-BUS Service]\nName=org.freedesktop.PolicyKit1\nExec=/bin/sleep 10\n";
        fs::write(services.join("polkit.service"), service).expect("the tree");
        let connection = self.bus.connect().await;
        let bus = zbus::fdo::DBusProxy::new(&connection).await.expect("the bus answers");
        bus.reload_config().await.expect("the bus answers");
    }

    /// Waits until the helper has its name.
    async fn named(&self) {
        let connection = self.bus.connect().await;
        let bus = zbus::fdo::DBusProxy::new(&connection).await.expect("the bus answers");
        let mut owners = bus.receive_name_owner_changed().await.expect("the bus answers");
        while !bus
            .name_has_owner("org.rootlessd.Helper1".try_into().expect("a name"))
            .await
            .expect("the bus answers")
        {
            futures_util::StreamExt::next(&mut owners).await;
        }
    }

    /// A connection of a user's.
    pub async fn connect(&self, uid: u32) -> Connection {
        let path = self.tree.path().join("bus");
        let stream = connect_as(uid, &path);
        Builder::unix_stream(stream).user_id(uid).build().await.expect("the bus answers")
    }

    /// The helper, as [`caller`] calls it.
    pub async fn proxy(&self) -> HelperProxy<'static> {
        proxy(&self.connect(caller()).await).await
    }

    /// What polkit was asked.
    pub fn questions(&self) -> Vec<Question> {
        self.polkit.questions.lock().expect("nobody panicked").clone()
    }

    /// The agents that polkit was told of.
    pub fn agents(&self) -> Vec<Registration> {
        self.polkit.agents.lock().expect("nobody panicked").clone()
    }

    /// What polkit says from now on.
    pub fn answer(&self, answer: Answer) {
        *self.polkit.answer.lock().expect("nobody panicked") = answer;
    }

    /// The first unprivileged port, with a newline.
    pub fn port_start(&self) -> String {
        fs::read_to_string(self.tree.path().join(PORT_START)).expect("the tree")
    }

    /// Nothing was changed, and nothing written down.
    pub fn assert_untouched(&self) {
        assert_eq!(self.port_start(), "1024\n");
        assert_eq!(
            fs::read_dir(self.tree.path().join("etc/sysctl.d")).expect("the tree").count(),
            0
        );
        let ledger = fs::read_to_string(self.tree.path().join("var/lib/rootlessd/ledger.json"));
        let entries = ledger.map_or(0, |text| {
            serde_json::from_str::<Value>(&text).expect("JSON")["entries"]
                .as_array()
                .expect("entries")
                .len()
        });
        assert_eq!(entries, 0);
    }
}

/// The helper, by a connection.
pub async fn proxy(connection: &Connection) -> HelperProxy<'static> {
    let builder = HelperProxy::builder(connection).cache_properties(CacheProperties::No);
    builder.build().await.expect("the bus answers")
}

/// A connection whose other end sees this uid. Of one thread only the kernel takes it.
fn connect_as(uid: u32, path: &Path) -> UnixStream {
    std::thread::scope(|scope| {
        let connect = scope.spawn(|| {
            if uid != nix::unistd::geteuid().as_raw() {
                let uid = rustix::process::Uid::from_raw(uid);
                rustix::thread::set_thread_res_uid(uid, uid, uid).expect("only root can be others");
            }
            UnixStream::connect(path).expect("the bus listens")
        });
        connect.join().expect("the thread ends")
    })
}
