//! The helper's gate, on a bus of the test's own, with a polkit that answers as the test says; the
//! helper works on a tree that stands for the machine.

use std::{
    collections::HashMap,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rootlessd_api::{
    Error, ErrorKind,
    dbus::helper::{HelperProxy, to_grant, to_outcome},
    helper::{Action, MOST_PORTS},
};
use rootlessd_helper::{helper::Helper, root::Root, service, systemd::Systemd};
use rootlessd_tests::{BOUND, bus::TestBus, run, until};
use serde_json::Value;
use tokio::{sync::Notify, task::JoinHandle};
use zbus::{Connection, OwnedVariant, connection::Builder, interface, proxy::CacheProperties};

const HELPER: &str = env!("CARGO_BIN_EXE_rootlessd-test-helper");
const PORT_START: &str = "proc/sys/net/ipv4/ip_unprivileged_port_start";

/// What polkit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    /// An administrator has to agree: yes, if somebody may be asked.
    Ask,
    /// The same, but there is nobody.
    NobodyThere,
    /// Somebody is asked, and does not answer.
    Never,
    /// No answer at all.
    Hang,
    Fail,
}

/// A question that polkit was asked.
#[derive(Clone, Debug)]
struct Question {
    kind: String,
    subject: String,
    action: String,
    details: HashMap<String, String>,
    interactive: bool,
}

#[derive(Clone)]
struct Polkit {
    answer: Arc<Mutex<Answer>>,
    questions: Arc<Mutex<Vec<Question>>>,
    cancelled: Arc<Notify>,
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

    fn cancel_check_authorization(&self, _cancellation: String) {
        self.cancelled.notify_one();
    }
}

struct World {
    tree: tempfile::TempDir,
    polkit: Polkit,
    helper: JoinHandle<zbus::Result<()>>,
    _authority: Option<Connection>,
    bus: TestBus,
}

/// Whose calls the tests make. Root has nothing granted, so that it makes them as somebody else.
fn caller() -> u32 {
    match nix::unistd::geteuid() {
        root if root.is_root() => 1,
        own => own.as_raw(),
    }
}

impl World {
    async fn new(answer: Answer) -> Self {
        Self::with(answer, true).await
    }

    async fn with(answer: Answer, has_polkit: bool) -> Self {
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
        let bus = TestBus::start(HELPER, &socket);
        fs::set_permissions(&socket, PermissionsExt::from_mode(0o777)).expect("the tree");
        let polkit = Polkit {
            answer: Arc::new(Mutex::new(answer)),
            questions: Arc::default(),
            cancelled: Arc::default(),
        };
        let authority = async || {
            let connection = bus.connect().await;
            let path = "/org/freedesktop/PolicyKit1/Authority";
            connection.object_server().at(path, polkit.clone()).await.expect("the bus answers");
            connection.request_name("org.freedesktop.PolicyKit1").await.expect("the bus answers");
            connection
        };
        let authority = if has_polkit { Some(authority().await) } else { None };
        let connection = bus.connect().await;
        let root = Root::tree(tree.path()).expect("a folder");
        let helper = Helper::new(root, Systemd::new(None));
        let helper = tokio::spawn(async move { service::run(helper, &connection).await });
        let world = Self { tree, polkit, helper, _authority: authority, bus };
        world.named().await;
        world
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

    async fn connect(&self, uid: u32) -> Connection {
        let path = self.tree.path().join("bus");
        let stream = connect_as(uid, &path);
        Builder::unix_stream(stream).user_id(uid).build().await.expect("the bus answers")
    }

    async fn proxy(&self) -> HelperProxy<'static> {
        proxy(&self.connect(caller()).await).await
    }

    fn questions(&self) -> Vec<Question> {
        self.polkit.questions.lock().expect("nobody panicked").clone()
    }

    fn answer(&self, answer: Answer) {
        *self.polkit.answer.lock().expect("nobody panicked") = answer;
    }

    fn port_start(&self) -> String {
        fs::read_to_string(self.tree.path().join(PORT_START)).expect("the tree")
    }

    /// Nothing was changed, and nothing written down.
    fn assert_untouched(&self) {
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

async fn proxy(connection: &Connection) -> HelperProxy<'static> {
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

fn kind<T: std::fmt::Debug>(result: zbus::Result<T>) -> ErrorKind {
    Error::from(result.expect_err("it is refused")).kind
}

#[test]
fn polkit_decides() {
    run(async {
        for (answer, interactive, expected) in [
            (Answer::Yes, true, None),
            (Answer::Yes, false, None),
            (Answer::Ask, true, None),
            (Answer::Ask, false, Some(ErrorKind::InteractionRequired)),
            (Answer::NobodyThere, true, Some(ErrorKind::InteractionRequired)),
            (Answer::No, true, Some(ErrorKind::AccessDenied)),
            (Answer::No, false, Some(ErrorKind::AccessDenied)),
            (Answer::Fail, true, Some(ErrorKind::PolkitUnavailable)),
            (Answer::Hang, true, Some(ErrorKind::PolkitUnavailable)),
            (Answer::Hang, false, Some(ErrorKind::PolkitUnavailable)),
        ] {
            let world = World::new(answer).await;
            let connection = world.connect(caller()).await;
            let begin = Instant::now();
            let result = if interactive {
                proxy(&connection).await.set_unprivileged_port_start(80).await.map(drop)
            } else {
                let name = Some("org.rootlessd.Helper1");
                let path = "/org/rootlessd/Helper1";
                let method = "SetUnprivilegedPortStart";
                connection.call_method(name, path, name, method, &80_u16).await.map(drop)
            };
            match expected {
                None => {
                    result.unwrap();
                    assert_eq!(world.port_start(), "80\n");
                }
                Some(expected) => {
                    assert_eq!(kind(result), expected, "{answer:?} {interactive}");
                    // Attack 6 and 7: no, and at once.
                    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
                    world.assert_untouched();
                }
            }
            for question in world.questions() {
                assert_eq!(question.kind, "system-bus-name");
                assert_eq!(question.subject, connection.unique_name().unwrap().as_str());
                assert_eq!(question.action, Action::SetUnprivilegedPortStart.id());
                assert_eq!(question.details["object"], "80");
                assert!(!question.details["user"].is_empty());
                assert!(interactive || !question.interactive);
            }
        }
    });
}

#[test]
fn attack_06_without_polkit_the_answer_is_no() {
    run(async {
        let world = World::with(Answer::Yes, false).await;
        let helper = world.proxy().await;
        assert_eq!(
            kind(helper.set_unprivileged_port_start(80).await),
            ErrorKind::PolkitUnavailable
        );
        world.assert_untouched();
        // What needs no yes goes on.
        assert_eq!(helper.list_grants().await.unwrap().len(), 0);
    });
}

#[test]
fn attack_05_each_request_is_a_question_of_its_own() {
    run(async {
        let world = World::new(Answer::Ask).await;
        let helper = world.proxy().await;
        helper.set_unprivileged_port_start(80).await.unwrap();
        helper.set_unprivileged_port_start(22).await.unwrap();
        let asked: Vec<_> =
            world.questions().into_iter().filter(|question| question.interactive).collect();
        let objects: Vec<_> = asked.iter().map(|question| &question.details["object"]).collect();
        assert_eq!(objects, ["80", "22"]);
    });
}

#[test]
fn what_is_wrong_or_done_already_is_nobodys_question() {
    run(async {
        let world = World::new(Answer::Yes).await;
        let helper = world.proxy().await;
        let many: Vec<_> = (1..=MOST_PORTS as u16 + 1).map(|number| ("tcp", number)).collect();
        assert_eq!(kind(helper.grant_ports(&[]).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(helper.grant_ports(&many).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(helper.grant_ports(&[("tcp", 0)]).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(helper.grant_ports(&[("icmp", 80)]).await), ErrorKind::InvalidArgument);
        for start in [1024, 8080, u16::MAX] {
            let refused = helper.set_unprivileged_port_start(start).await;
            assert_eq!(kind(refused), ErrorKind::InvalidArgument);
        }
        // Attack 17: what would be a line of its own in the file.
        for range in ["", "0 0", "own\n", "all\nkernel.core_pattern=|/tmp/x", "\u{1b}[31m"] {
            assert_eq!(kind(helper.set_ping_range(range).await), ErrorKind::InvalidArgument);
        }
        let wrong: &[&[&str]] = &[&[], &["devices"], &["cpu", "cpu\n"], &["CPU"], &["../cpu"]];
        for controllers in wrong {
            let refused = helper.delegate_controllers(controllers).await;
            assert_eq!(kind(refused), ErrorKind::InvalidArgument);
        }
        assert_eq!(kind(helper.revoke("0").await), ErrorKind::NoSuchGrant);
        assert_eq!(world.questions().len(), 0);
        world.assert_untouched();

        // Port 8080 is nobody's privilege.
        let outcome = to_outcome(helper.grant_ports(&[("tcp", 8080)]).await.unwrap()).unwrap();
        assert_eq!(outcome, Default::default());
        helper.set_unprivileged_port_start(80).await.unwrap();
        let asked = world.questions().len();
        let outcome = to_outcome(helper.set_unprivileged_port_start(443).await.unwrap()).unwrap();
        assert_eq!(outcome, Default::default());
        assert_eq!(world.questions().len(), asked);
    });
}

#[test]
fn a_grant_is_seen_and_undone_by_whom_it_is_for() {
    run(async {
        let world = World::new(Answer::Yes).await;
        let helper = world.proxy().await;
        let outcome = helper.set_unprivileged_port_start(80).await.unwrap();
        let id = to_outcome(outcome).unwrap().grants.remove(0);
        assert_eq!(id.len(), 32);
        let grants = helper.list_grants().await.unwrap();
        let grant = to_grant(grants.into_iter().next().unwrap()).unwrap();
        assert_eq!((grant.id.as_str(), grant.uid), (id.as_str(), caller()));
        assert_eq!(grant.drift, [""; 0]);

        // Undoing what affects all is an administrator's affair, too.
        world.answer(Answer::No);
        assert_eq!(kind(helper.revoke(&id).await), ErrorKind::AccessDenied);
        assert_eq!(kind(helper.list_all_grants().await), ErrorKind::AccessDenied);
        assert_eq!(world.port_start(), "80\n");
        world.answer(Answer::Yes);
        assert_eq!(helper.list_all_grants().await.unwrap().len(), 1);
        helper.revoke(&id).await.unwrap();
        assert_eq!(world.port_start(), "1024\n");
        assert_eq!(kind(helper.revoke(&id).await), ErrorKind::NoSuchGrant);
        let actions: Vec<_> = world.questions().into_iter().map(|asked| asked.action).collect();
        assert!(
            actions.contains(&Action::Revoke.id()) && !actions.contains(&Action::RevokeOthers.id())
        );
        world.assert_untouched();
    });
}

/// Attack 4: whoever has gone when the yes comes has nothing done.
#[test]
fn attack_04_a_caller_that_has_gone_gets_nothing() {
    run(async {
        let world = World::new(Answer::Never).await;
        let connection = world.connect(caller()).await;
        let helper = proxy(&connection).await;
        let call = tokio::spawn(async move { helper.set_unprivileged_port_start(80).await });
        until("a person is asked", || world.questions().iter().any(|asked| asked.interactive))
            .await;
        // All that holds the connection goes with the call.
        call.abort();
        let _ = call.await;
        connection.close().await.unwrap();
        let cancelled = tokio::time::timeout(BOUND, world.polkit.cancelled.notified()).await;
        assert!(cancelled.is_ok(), "the question is taken back");
        world.answer(Answer::Yes);
        assert_eq!(world.proxy().await.list_grants().await.unwrap().len(), 0);
        world.assert_untouched();
    });
}

/// Attack 27: of one user four requests are under way at most, however many are asked; none of them
/// keeps the helper from answering when they are done.
#[test]
fn attack_27_one_user_has_four_requests_under_way() {
    run(async {
        let world = World::new(Answer::Never).await;
        let connection = world.connect(caller()).await;
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let connection = connection.clone();
                tokio::spawn(async move {
                    proxy(&connection).await.set_unprivileged_port_start(80).await.map(drop)
                })
            })
            .collect();
        let (refused, waiting): (Vec<_>, Vec<_>) = {
            until("the others are refused", || {
                calls.iter().filter(|call| call.is_finished()).count() == 96
            })
            .await;
            calls.into_iter().partition(|call| call.is_finished())
        };
        for call in join_all(refused).await {
            assert_eq!(kind(call.unwrap()), ErrorKind::LimitsExceeded);
        }
        waiting.iter().for_each(JoinHandle::abort);
        join_all(waiting).await;
        connection.close().await.unwrap();
        // When they have gone, the next is let in.
        let helper = world.proxy().await;
        let mut last = helper.list_grants().await;
        while let Err(error) = last {
            assert_eq!(Error::from(error).kind, ErrorKind::LimitsExceeded);
            last = helper.list_grants().await;
        }
        world.assert_untouched();
    });
}

#[test]
fn without_work_it_goes_and_gives_its_name_back_first() {
    run(async {
        let world = World::new(Answer::Yes).await;
        tokio::time::pause();
        // The clock goes on when nothing else does.
        world.helper.await.unwrap().unwrap();
    });
}
