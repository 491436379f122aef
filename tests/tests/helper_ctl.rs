//! `rootlessctl`'s verbs for the helper: the real program, the real helper on a bus of the test's own,
//! and a polkit that answers as the test says.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::PathBuf,
    process::{Output, Stdio},
};

use rootlessd_api::helper::Action;
use rootlessd_tests::{
    BOUND,
    bus::TestBus,
    install::programs,
    polkit::{Answer, World, caller},
    run, until,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

const ID: &str = "3f2a91c0aaaaaaaaaaaaaaaaaaaaaaaa";

/// A world with rootlessctl in it, as it is installed.
struct Installed(World);

impl Installed {
    async fn new(answer: Answer) -> Self {
        Self::of(World::new(answer).await)
    }

    fn of(world: World) -> Self {
        // The caller may not be let into the project's folders.
        for (directory, program) in [("bin", "rootlessctl"), ("sbin", "rootlessd-helper")] {
            let directory = world.tree.path().join(directory);
            fs::create_dir(&directory).expect("the tree");
            fs::copy(programs().join(program), directory.join(program)).expect("`make build`");
        }
        Self(world)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.tree.path().join(below)
    }

    fn program(&self) -> PathBuf {
        self.path("bin/rootlessctl")
    }

    fn command(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        let bus = format!("unix:path={}", self.path("bus").display());
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("DBUS_SYSTEM_BUS_ADDRESS", bus)
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if nix::unistd::geteuid().is_root() {
            command.uid(caller()).gid(caller());
        }
        command
    }

    fn spawn(&self, arguments: &str) -> Child {
        let mut command = self.command(self.program());
        command.args(arguments.split_ascii_whitespace()).spawn().expect("rootlessctl runs")
    }

    async fn run(&self, arguments: &str) -> Told {
        Told::of(self.spawn(arguments)).await
    }

    /// The same on a terminal, where `typed` is the answer to its question.
    async fn on_terminal(&self, arguments: &str, typed: &str) -> Told {
        let mut command = self.command("/usr/bin/script".into());
        let line = format!("exec {} {arguments}", self.program().display());
        let child = command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).spawn();
        let mut child = child.expect("script runs");
        let mut stdin = child.stdin.take().expect("a pipe was asked for");
        let mut shown = Vec::new();
        let asked = async {
            let stdout = child.stdout.as_mut().expect("a pipe was asked for");
            while !shown.ends_with(b"[y/N] ") {
                shown.push(stdout.read_u8().await.expect("a question"));
            }
            stdin.write_all(typed.as_bytes()).await.expect("typed");
        };
        tokio::time::timeout(BOUND, asked).await.expect("a question");
        let mut told = Told::of(child).await;
        told.stdout.insert_str(0, &String::from_utf8(shown).expect("text"));
        told
    }

    /// A user whom somebody granted TCP port 80.
    fn grant_port_80(&self) {
        let user = nix::unistd::User::from_uid(caller().into()).expect("the user database");
        let name = user.expect("a user").name;
        let ledger = json!({ "version": 1, "entries": [{
            "id": ID, "uid": caller(), "user": name, "since": 1_764_025_545_000_000_u64,
            "verb": "grant-ports", "protocol": "tcp", "port": 80,
        }]});
        let directory = self.path("var/lib/rootlessd");
        fs::create_dir_all(&directory).expect("the tree");
        fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).expect("the tree");
        fs::write(directory.join("ledger.json"), ledger.to_string()).expect("the tree");
    }

    /// A supervisor with these ports.
    fn supervise(&self, ports: Value) {
        let directory = self.path("run");
        fs::create_dir(&directory).expect("the tree");
        fs::create_dir(directory.join("rootlessd")).expect("the tree");
        let socket = directory.join("rootlessd/org.rootlessd.Supervisor");
        let listener = UnixListener::bind(&socket).expect("the tree");
        for path in [&directory, &socket] {
            std::os::unix::fs::chown(path, Some(caller()), None).expect("the tree");
        }
        let nothing = json!({});
        std::thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                let mut byte = [0];
                let mut call = Vec::new();
                while client.read(&mut byte).is_ok_and(|read| read == 1) {
                    call.push(byte[0]);
                    if byte == [0] {
                        let call = String::from_utf8(std::mem::take(&mut call)).expect("JSON");
                        let answer = match call {
                            call if call.contains(".ListPorts") => &ports,
                            call if call.contains(".RefreshPorts") => &nothing,
                            call => panic!("{call}"),
                        };
                        let reply = format!("{}\0", json!({ "parameters": answer }));
                        client.write_all(reply.as_bytes()).expect("the client waits");
                    }
                }
            }
        });
    }
}

/// How it ended, and what it said.
#[derive(Debug)]
struct Told {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Told {
    async fn of(child: Child) -> Self {
        let output = tokio::time::timeout(BOUND, child.wait_with_output()).await;
        let Output { status, stdout, stderr } = output.expect("it ends").expect("it ran");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let status = status.code().expect("it ended itself");
        Self { status, stdout: text(stdout), stderr: text(stderr) }
    }

    #[track_caller]
    fn ok(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
    }

    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.stderr, "", "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status, the error's name and its remedy.
    #[track_caller]
    fn failure(&self) -> (i32, String, String) {
        let error = &self.json()["error"];
        let word = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (self.status, word("name"), word("remedy"))
    }
}

/// What stands in the remedy for root to do.
fn as_root(words: &str) -> String {
    let user = nix::unistd::User::from_uid(caller().into()).expect("users").expect("a user");
    format!("sudo rootlessd-helper apply {words} --for {}", user.name)
}

#[test]
fn all_ports_are_allowed_shown_and_given_back() {
    run(async {
        let world = Installed::new(Answer::Yes).await;
        let allow = "ports allow --all-below-1024 --by sysctl";
        // Not on a terminal, nobody can say whether others should be affected.
        let told = world.run(allow).await;
        assert_eq!(told.status, 9, "{told:?}");
        assert!(told.stderr.contains("every program of every user"), "{told:?}");
        assert!(told.stderr.contains("--yes"), "{told:?}");
        world.0.assert_untouched();
        assert_eq!(world.0.questions().len(), 0);

        let text = world.run(&format!("{allow} --yes")).await.ok();
        assert!(text.starts_with("Everybody may listen on every port.\n"), "{text}");
        assert_eq!(world.0.port_start(), "0\n");
        let text = world.run(&format!("{allow} --yes")).await.ok();
        assert!(text.ends_with("Nothing had to be changed.\n"), "{text}");

        let grants = world.run("privileges --json").await.json();
        let grant = &grants["grants"][0];
        assert_eq!(grant["verb"], "set-unprivileged-port-start");
        let id = &grant["id"].as_str().expect("an id")[..8];
        let text = world.run("privileges").await.ok();
        assert!(text.starts_with(&format!("{id}  set-unprivileged-port-start: ")), "{text}");
        fs::write(world.path(rootlessd_tests::polkit::PORT_START), "512\n").expect("the tree");
        let text = world.run("privileges").await.ok();
        assert!(text.contains("! net.ipv4.ip_unprivileged_port_start is 512, not 0"), "{text}");
        fs::write(world.path(rootlessd_tests::polkit::PORT_START), "0\n").expect("the tree");

        for revoke in ["ports revoke --all-below-1024", &format!("privileges revoke {id}")] {
            let changes = world.run(&format!("{revoke} --dry-run --json")).await.json();
            assert_eq!(changes["changes"], grant["changes"]);
        }
        assert_eq!(world.0.port_start(), "0\n");
        let text = world.run("ports revoke --all-below-1024").await.ok();
        assert!(text.starts_with("Given back: net.ipv4.ip_unprivileged_port_start = 0"), "{text}");
        world.0.assert_untouched();
        let told = world.run(&format!("privileges revoke {id} --json")).await;
        assert_eq!(told.failure().1, "NoSuchGrant");
        assert_eq!(world.run("privileges").await.ok(), "Nothing was granted to you.\n");
    });
}

#[test]
fn on_a_terminal_it_asks_first() {
    run(async {
        let world = Installed::new(Answer::Yes).await;
        let allow = "ports allow --all-below-1024 --by sysctl";
        for no in ["n\n", "\n", "\x04"] {
            let told = world.on_terminal(allow, no).await;
            assert_eq!(told.status, 9, "{told:?}");
            assert!(told.stdout.contains("Is that what you want? [y/N]"), "{told:?}");
            assert!(told.stdout.contains("you did not agree; nothing was changed"), "{told:?}");
            world.0.assert_untouched();
        }
        let told = world.on_terminal(allow, "\x03").await;
        assert_eq!(told.status, 130, "{told:?}");
        assert_eq!(world.0.questions().len(), 0);
        let told = world.on_terminal(allow, "y\n").await;
        assert_eq!((told.status, &*world.0.port_start()), (0, "0\n"), "{told:?}");
        // The one call for which somebody may be asked had an agent, which is gone with it.
        let agents = world.0.agents();
        assert!(agents.len() == 1 && agents[0].fallback && agents[0].start_time > 0, "{agents:?}");
        assert!(!fs::exists(format!("/proc/{}", agents[0].pid)).expect("proc"), "{agents:?}");
    });
}

#[test]
fn json_is_what_the_manual_says() {
    run(async {
        let world = Installed::new(Answer::Yes).await;
        let outcome = world.run("ping allow --json").await.json();
        assert_eq!(outcome["grants"].as_array().expect("a list").len(), 1);
        assert_eq!((&outcome["needs"], &outcome["notes"]), (&json!([]), &json!([])));
        let outcome = world.run("ping allow --json").await.json();
        assert_eq!(outcome, json!({"grants": [], "needs": [], "notes": []}));
        let all = world.run("privileges --all --json").await.json();
        assert_eq!(
            all["grants"][0]["text"],
            json!(format!("net.ipv4.ping_group_range = {0} {0}", caller()))
        );
    });
}

#[test]
fn who_does_not_agree_is_told_with_what_root_can_do() {
    run(async {
        for (answer, name) in [
            (Answer::No, "AccessDenied"),
            (Answer::NobodyThere, "InteractiveAuthorizationRequired"),
            (Answer::Fail, "PolkitUnavailable"),
        ] {
            let world = Installed::new(answer).await;
            let told = world.run("ping allow --json").await;
            assert_eq!(told.failure(), (9, name.to_owned(), as_root("set-ping-range own")));
            let told = world.run("privileges --all --json").await;
            assert_eq!(told.failure().1, name);
            world.0.assert_untouched();
        }
        let world = Installed::of(World::with(Answer::Yes, false).await);
        let told = world.run("ping allow --everybody").await;
        assert_eq!(told.status, 9, "{told:?}");
        let remedy = format!("\n  what to do: {}\n", as_root("set-ping-range all"));
        assert!(told.stderr.starts_with("error: polkit cannot be asked: "), "{told:?}");
        assert!(told.stderr.ends_with(&remedy), "{told:?}");
    });
}

#[test]
fn without_a_helper_or_a_bus_root_can_do_it() {
    run(async {
        let world = Installed::new(Answer::Yes).await;
        let helperless = world.path("helperless");
        let bus = TestBus::daemon(&helperless);
        for round in 0..2 {
            for (verb, words) in [
                ("ports allow 80 443/udp", "grant-ports 80/tcp 443/udp"),
                ("subids allocate", "allocate-subids"),
                ("userns allow", "allow-user-namespaces"),
                ("cgroup delegate io pids", "delegate-controllers io pids"),
                ("privileges", "list"),
            ] {
                let mut command = world.command(world.program());
                command.args(verb.split(' ')).arg("--json");
                let address = format!("unix:path={}", helperless.display());
                command.env("DBUS_SYSTEM_BUS_ADDRESS", address);
                let told = Told::of(command.spawn().expect("rootlessctl runs")).await;
                let expected = (10, "HelperMissing".to_owned(), as_root(words));
                assert_eq!(told.failure(), expected, "{round}: {told:?}");
            }
            if round == 0 {
                fs::remove_file(&helperless).expect("the tree");
            }
        }
        drop(bus);
    });
}

#[test]
fn a_dry_run_changes_nothing_and_asks_nobody() {
    run(async {
        let world = Installed::new(Answer::Yes).await;
        // About this machine itself: whatever it says, it says it without root.
        for verb in
            ["ping allow --everybody", "userns allow", "ports allow --all-below-1024 --by sysctl"]
        {
            let told = world.run(&format!("{verb} --dry-run --json")).await;
            assert!(told.json()["changes"].is_array(), "{told:?}");
            assert_eq!(told.status, 0);
        }
        assert!(world.run("ping allow --dry-run").await.ok().ends_with('\n'));
        // What is granted needs no change.
        world.grant_port_80();
        let text = world.run("ports allow 80 --dry-run").await.ok();
        assert_eq!(text, "Nothing would have to be changed.\n");
        assert_eq!(world.0.questions().len(), 0);
        fs::remove_file(world.path("sbin/rootlessd-helper")).expect("the tree");
        if !["/usr/local/sbin", "/usr/sbin"]
            .iter()
            .any(|place| fs::exists(format!("{place}/rootlessd-helper")).expect("the machine"))
        {
            assert_eq!(world.run("ping allow --dry-run").await.status, 10);
        }
    });
}

#[test]
fn ports_are_shown_and_one_s_own_given_back_without_a_question() {
    run(async {
        let world = Installed::new(Answer::No).await;
        world.supervise(json!({ "ports": [
            {"protocol": "tcp", "port": 8080, "address": "0.0.0.0", "childPort": 80, "privileged": false},
        ]}));
        let ports = world.run("ports --json").await.json();
        assert_eq!(ports["ports"][0]["childPort"], 80);
        assert_eq!(ports["granted"], json!([]));
        world.grant_port_80();
        assert_eq!(
            world.run("ports").await.ok(),
            "\
PORT      ADDRESS  LEADS TO  PRIVILEGED  BY
8080/tcp  0.0.0.0  80        no
80/tcp                       yes         grant, but not published
"
        );
        let told = world.run("ports revoke 80 81 --json").await;
        assert_eq!(told.failure().1, "NoSuchGrant", "{told:?}");
        let text = world.run("ports revoke 80").await.ok();
        assert_eq!(text, "Given back: TCP port 80 (grant-ports).\n");
        assert_eq!(world.0.questions().len(), 0);
        let ports = world.run("ports --json").await.json();
        assert_eq!(ports["granted"], json!([]));
    });
}

#[test]
fn ctrl_c_takes_the_question_back() {
    run(async {
        let world = Installed::new(Answer::Never).await;
        let child = world.spawn("ping allow --json");
        until("a person is asked", || world.0.questions().iter().any(|asked| asked.interactive))
            .await;
        let pid = nix::unistd::Pid::from_raw(child.id().expect("it runs").cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
        let told = Told::of(child).await;
        assert_eq!((told.status, told.failure().1.as_str()), (130, "Interrupted"));
        let cancelled = tokio::time::timeout(BOUND, world.0.polkit.cancelled.notified()).await;
        assert!(cancelled.is_ok(), "the question is taken back");
        let questions = world.0.questions();
        assert!(questions.iter().all(|asked| asked.action == Action::SetPingRange.id()));
        world.0.answer(Answer::Yes);
        world.0.assert_untouched();
    });
}
