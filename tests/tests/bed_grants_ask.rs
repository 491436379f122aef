//! A port that nobody granted yet is asked for at the moment of need, while `docker run` waits: polkit's
//! agent asks for rootlessd, as a desktop's would for the session.
//!
//! Measured with a RootlessKit that does not answer: dockerd 20.10 and 26.1 wait 16 s for a port and then
//! give up, so that the 12 s for which a question is held fit into it; 28.5, which starts no proxy for
//! it, waits without a limit. Meanwhile dockerd answers and runs containers, but publishes no other
//! port, and 28.5 lets no container join or leave a bridge: those wait for the answer, too.

use std::time::{Duration, Instant};

use rootlessd_tests::{
    bed::Suite,
    command::Spawned,
    grants::{ADMINISTRATOR, Caller, Terminal},
    machine::{Machine, SOON, on_both, word},
};

const PAGE: &str = "hello from a container";
/// How long a question is held.
const HELD: Duration = Duration::from_secs(12);

/// A machine with a running engine, somebody to be asked, and the terminal where that is.
fn machine(suite: Suite) -> Machine {
    let machine = Machine::running(suite);
    machine.load();
    machine.appoint();
    machine
}

/// In all that have another dockerd.
fn on_all(scenario: impl Fn(Suite)) {
    on_both(&scenario);
    scenario(Suite::Forky);
}

fn agent(machine: &Machine) -> Terminal<'_> {
    Terminal::agent_of(machine, &word(&machine.status()["supervisor"]["pid"]))
}

/// Starts `docker run`, which may wait; the last line says how it ended.
fn run(machine: &Machine, name: &str, port: &str) -> Spawned {
    let script = "docker run -d --name $0 -p $1 rootlessd/tiny 2>&1; echo \"ended with $?\"";
    machine.spawn_user(["sh", "-c", script, name, port])
}

/// Waits until it has ended; what Docker said.
#[track_caller]
fn ended(mut run: Spawned, code: &str) -> String {
    run.wait_line(SOON, |line| line == format!("ended with {code}"));
    run.seen().join("\n")
}

#[test]
fn docker_run_goes_on_after_a_yes() {
    on_all(|suite| {
        let machine = machine(suite);
        let mut agent = agent(&machine);
        let waiting = run(&machine, "web", "443:80");
        let question = agent.wait_question();
        assert_eq!(
            question,
            "Authentication is required to let tester's containers listen on TCP port 443"
        );
        // Nothing is the matter as long as the answer is open, and dockerd goes on.
        assert_eq!(machine.reasons(), []);
        let begin = Instant::now();
        machine.user(["docker", "ps"]).ok();
        machine.user(["docker", "run", "--rm", "--net=none", "rootlessd/tiny", "true"]).ok();
        if suite != Suite::Forky {
            machine.user(["docker", "run", "--rm", "rootlessd/tiny", "true"]).ok();
        }
        assert!(begin.elapsed() < HELD);
        agent.answer(ADMINISTRATOR.1);
        ended(waiting, "0");
        assert_eq!(machine.fetch("http://127.0.0.1:443/"), PAGE);
        assert_eq!(machine.fetch("http://[::1]:443/"), PAGE);
        assert_eq!(machine.reasons(), []);
        assert_eq!(word(&machine.status()["grantedPorts"]), r#"[{"port":443,"protocol":"tcp"}]"#);
        // For both addresses there was one question, and there is none for what is granted.
        machine.user(["docker", "restart", "-t", "1", "web"]).ok();
        assert!(!agent.is_asked());

        // Two containers at once are asked about one after the other.
        let both = [run(&machine, "one", "81:80"), run(&machine, "other", "82:80")];
        for _ in 0..2 {
            agent.wait_question();
            assert!(!agent.is_asked());
            agent.answer(ADMINISTRATOR.1);
        }
        for waiting in both {
            ended(waiting, "0");
        }
        assert_eq!(machine.fetch("http://127.0.0.1:81/"), PAGE);
        assert_eq!(machine.fetch("http://127.0.0.1:82/"), PAGE);
        assert_eq!(machine.grants().len(), 3);
    });
}

#[test]
fn after_a_no_docker_tells_the_command() {
    on_all(|suite| {
        let machine = machine(suite);
        let mut agent = agent(&machine);
        let waiting = run(&machine, "web", "443:80");
        agent.wait_question();
        agent.answer("a guess");
        let refusal = ended(waiting, "125");
        let command = "rootlessctl ports allow 443/tcp";
        assert!(refusal.contains("an administrator said no"), "{refusal}");
        assert!(refusal.contains(command), "{refusal}");
        assert_eq!(machine.reasons(), [("port-privileged".into(), command.into())]);
        assert!(!agent.is_asked());
        assert_eq!(machine.grants().len(), 0);

        // Without anybody to be asked, it is the same at once.
        agent.leave();
        machine.remove("web");
        let refusal = machine.refused("443:80");
        assert!(refusal.contains("there is nobody to ask here"), "{refusal}");
        assert!(refusal.contains(command), "{refusal}");
    });
}

#[test]
fn a_late_yes_is_still_a_yes() {
    on_all(|suite| {
        let machine = machine(suite);
        let mut agent = agent(&machine);
        let begin = Instant::now();
        let waiting = run(&machine, "web", "443:80");
        agent.wait_question();
        // Another publisher waits for it in dockerd, but no longer.
        let other = run(&machine, "other", "8443:80");
        let refusal = ended(waiting, "125");
        let took = begin.elapsed();
        // dockerd, which would wait no longer either, has other words for it.
        assert!(took >= HELD, "{took:?}: {refusal}");
        for text in ["443/tcp", "The question whether to grant it is still open", "docker start"] {
            assert!(refusal.contains(text), "{refusal}");
        }
        ended(other, "0");
        assert_eq!(machine.fetch("http://127.0.0.1:8443/"), PAGE);
        assert!(!agent.is_asked());

        let mut news = machine.watch();
        agent.answer(ADMINISTRATOR.1);
        let late = loop {
            let status = news.next_status();
            if status["reasons"][0]["code"] == "port-granted-late" {
                break status["reasons"][0].clone();
            }
        };
        assert_eq!(word(&late["remedy"]), "docker start NAME");
        assert_eq!(machine.grants().len(), 1);
        machine.user(["docker", "start", "web"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1:443/"), PAGE);
        assert_eq!(machine.reasons(), []);

        // Whoever does not wait for the answer to try again is not asked again.
        let waiting = run(&machine, "again", "81:80");
        agent.wait_question();
        ended(waiting, "125");
        let start = "docker start again 2>&1; echo \"ended with $?\"";
        let waiting = machine.spawn_user(["sh", "-c", start]);
        agent.answer(ADMINISTRATOR.1);
        ended(waiting, "0");
        assert_eq!(machine.fetch("http://127.0.0.1:81/"), PAGE);
        assert!(!agent.is_asked());
        assert_eq!(machine.reasons(), []);
    });
}

#[test]
fn who_is_not_to_be_asked_is_not_in_the_way() {
    on_both(|suite| {
        let machine = Machine::running_with(suite, "[engine.ports]\nask = \"never\"\n");
        machine.load();
        machine.decide(&[("grant-ports", "yes")]);
        // Others still find RootlessKit where it is without us.
        let state_dir = word(&machine.status()["stateDir"]);
        machine.root(["test", "-S", &format!("{state_dir}/api.sock")]).ok();

        // RootlessKit's own words; the status has the reason.
        let refusal = machine.refused("443:80");
        assert!(refusal.contains("cannot expose privileged port 443"), "{refusal}");
        assert!(refusal.contains("net.ipv4.ip_unprivileged_port_start=443"), "{refusal}");
        let reason = ("port-privileged".into(), "rootlessctl ports allow 443/tcp".into());
        assert_eq!(machine.reasons(), [reason]);
        assert_eq!(machine.grants().len(), 0);

        // The command helps all the same.
        machine.ctl(["ports", "allow", "443"]);
        machine.publish("web", &["443:80"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1:443/"), PAGE);
        assert_eq!(machine.reasons(), []);
    });
}
