//! What Docker's clients see of an engine that comes and goes: an answer, in every state.

use rootlessd_tests::{
    command::Spawned,
    machine::{Machine, SOON, on_both, pids, rounds, victims, word},
};

/// Asks until there is a file `enough`, and prints how each question ended. A connection that is made and
/// then lost was accepted by the dockerd that went; curl does not tell that from one refused.
const ASK: &str = r#"perl -MIO::Socket::UNIX -e '
$SIG{PIPE} = "IGNORE";
while (! -e "enough") {
    my $socket = IO::Socket::UNIX->new(Peer => "$ENV{XDG_RUNTIME_DIR}/docker.sock");
    if (!$socket) { print "refused: $!\n"; next }
    print $socket "GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n";
    my $answer = <$socket>;
    print defined $answer && $answer =~ m{^HTTP/1\.\d (\d+)} ? "$1\n" : "cut off\n";
}
print "enough\n"'"#;

#[test]
fn a_client_is_always_answered() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        machine.configure("[engine.restart]\nlimit = 3\ndelay = \"3s\"\n");
        // The first one comes before the engine.
        machine.user(["systemctl", "--user", "enable", "--now", "rootlessd"]).ok();
        assert_ne!(machine.state(), "running");
        ask(&machine, "");

        while_it_starts_and_stops(&machine);
        while_it_waits_to_be_started_again(&machine);
        when_it_is_stopped_or_failed(&machine);
        over_restarts(&machine);
    });
}

/// `docker version`: it has to succeed, or fail with this.
fn ask(machine: &Machine, refusal: &str) {
    let version = machine.user(["docker", "version"]);
    if refusal.is_empty() {
        assert!(version.ok().contains("Server:"));
    } else {
        let said = version.fails();
        assert!(said.contains(refusal), "{said}");
    }
}

fn while_it_starts_and_stops(machine: &Machine) {
    // A phase that passes quickly may not be seen.
    for places in [
        &["stopping containers", "stopping dockerd"][..],
        &["stopping dockerd", "stopping containerd", "starting preflight"],
        &["starting preflight", "starting namespaces"],
        &["starting containerd", "starting dockerd", "starting containers"],
    ] {
        let mut watch = machine.watch();
        machine.ctl(["restart", "--no-block"]);
        loop {
            let status = watch.next_status();
            let place = format!("{} {}", word(&status["state"]), word(&status["phase"]));
            if places.contains(&place.as_str()) {
                break;
            }
        }
        ask(machine, "");
        machine.wait_state("running");
    }
}

fn while_it_waits_to_be_started_again(machine: &Machine) {
    let mut watch = machine.watch();
    machine.kill(&victims(&machine.wait_known())["init"]);
    let status = watch.until(&["backoff"]);
    assert!(status["nextAttempt"].as_u64() > status["since"].as_u64());
    ask(machine, "");
    assert_eq!(watch.until(&["running"])["deaths"].as_array().map(Vec::len), Some(1));
}

fn when_it_is_stopped_or_failed(machine: &Machine) {
    let socket = "/run/user/4242/docker.sock";
    let curl = |path: &str| {
        let curl = "curl -s -w '\\n%{http_code} %{content_type}' --unix-socket";
        machine.user_sh(&format!("{curl} {socket} http://docker{path}")).ok()
    };
    machine.ctl(["stop"]);
    ask(machine, "rootless Docker is stopped: start it with `rootlessctl start`");
    let answer = curl("/v1.40/containers/json");
    assert_eq!(
        answer,
        "{\"message\":\"rootless Docker is stopped: start it with `rootlessctl start`\"}\n\
         503 application/json"
    );

    // It cannot be started: what is the matter, and what to do about it.
    machine.configure("[engine]\nstart_timeout = \"soon\"\n");
    machine.try_ctl(["start"]).fails();
    ask(machine, "rootless Docker cannot be started: ");
    ask(machine, "config.toml:2");
    ask(machine, "`rootlessctl status` tells more");
    assert!(curl("/_ping").ends_with("\n503 application/json"));
    machine.configure("[engine]\nclient_wait = \"1s\"\n");
    machine.ctl(["start"]);
    ask(machine, "");
}

/// Nobody is refused over restarts, and when dockerd is replaced: whoever asks meanwhile waits.
fn over_restarts(machine: &Machine) {
    machine.configure("[engine]\nclient_wait = \"30s\"\n");
    machine.ctl(["reload"]);
    let clients: Vec<Spawned> = (0..2).map(|_| machine.spawn_user(["sh", "-c", ASK])).collect();
    for round in 0..rounds(5) {
        machine.ctl(["restart"]);
        if round == 1 {
            let mut watch = machine.watch();
            machine.kill(&pids(&machine.status())["dockerd"][0]);
            watch.until(&["running"]);
        }
    }
    machine.user(["touch", "enough"]).ok();
    let (mut answered, mut cut, mut others) = (0, 0, vec![]);
    for mut client in clients {
        client.wait_line(SOON, |line| line == "enough");
        for line in client.seen() {
            match line.as_str() {
                "200" => answered += 1,
                // It had been accepted by the dockerd that went.
                "cut off" => cut += 1,
                "enough" => {}
                other => others.push(other.to_owned()),
            }
        }
    }
    eprintln!("{}: {answered} answered, {cut} cut off, {} refused", machine.suite, others.len());
    assert_eq!(others, [""; 0]);
}
