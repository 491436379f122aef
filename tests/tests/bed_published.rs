//! What is published stays so while dockerd is replaced under it: who is connected, who connects
//! meanwhile, and what is published besides.

use std::time::Duration;

use rootlessd_tests::{
    bed::Suite,
    command::{Spawned, wait_for},
    machine::{Machine, SOON, pids, victims},
};

/// Kills the process `$0` and asks for the page, over IPv4 and IPv6 in turn, until its successor
/// answers: how often there was none.
const ASK_ON: &str = r#"
kill -9 "$0"
while kill -0 "$0" 2>/dev/null; do :; done
docker version >/dev/null & answer=$!
refused=0
asked=0
while kill -0 $answer 2>/dev/null; do
    for host in 127.0.0.1 '[::1]'; do
        curl -sf -m 5 "http://$host:8080/" >/dev/null || refused=$((refused + 1))
        asked=$((asked + 1))
    done
done
wait $answer && echo "$refused of $asked"
"#;

/// Sends a number ten times a second, to each who connects.
const COUNT: &str = "docker run -d --name count -p 9000:9000 rootlessd/tiny nc -ll -p 9000 -e \
                     sh -c 'i=0; while :; do i=$((i+1)); echo $i; usleep 100000; done'";

/// A client that stays connected.
const LISTEN: &str = "exec 3<>/dev/tcp/127.0.0.1/9000 && cat <&3";

#[test]
fn who_is_connected_stays_so_while_dockerd_is_replaced() {
    for suite in [Suite::Trixie, Suite::Bookworm, Suite::Forky] {
        let machine = Machine::running(suite);
        machine.serve();
        machine.user_sh(COUNT).ok();
        machine.ctl(["add-ports", "127.0.0.1:9001:9001/tcp"]);
        let published = ports(&machine);
        let mut download = Download { lines: machine.spawn_user(["bash", "-c", LISTEN]), last: 0 };
        download.next();
        let container = machine.web_pid();

        let refused = machine.user(["bash", "-c", ASK_ON, &victims(&machine.status())["dockerd"]]);
        let refused = refused.ok();
        eprintln!("{suite}: dockerd is killed: {refused} answers did not come");
        assert!(refused.starts_with("0 of "), "{suite}: {refused}");
        go_on(&mut download);

        // Another file in its place, as a package has it.
        let dockerd = "path=$(readlink -f $(command -v dockerd)) && cp -p $path $path.new && \
                       mv $path.new $path";
        machine.root_sh(dockerd).ok();
        machine.ctl(["upgrade"]);
        go_on(&mut download);

        let supervisor = pids(&machine.status())["supervisor"][0].clone();
        machine.kill(&supervisor);
        machine.wait_known();
        go_on(&mut download);

        // Nobody had to be published anew, and somebody's own port is still there.
        assert_eq!(ports(&machine), published, "{suite}");
        assert_eq!(machine.web_pid(), container);

        // What has ended meanwhile is published no more.
        let count = machine.user(["docker", "inspect", "-f", "{{.State.Pid}}", "count"]).ok();
        let dockerd = &victims(&machine.status())["dockerd"];
        machine.root(["kill", "-KILL", dockerd, &count]).ok();
        machine.user(["docker", "version"]).ok();
        machine.wait_known();
        let left: Vec<_> =
            published.iter().filter(|port| !port.contains("9000")).cloned().collect();
        wait_for("it is published no more", SOON, || (ports(&machine) == left).then_some(()));

        // A container that is started again may have another address.
        machine.user(["docker", "stop", "-t", "1", "web"]).ok();
        machine.user(["docker", "run", "-d", "rootlessd/tiny"]).ok();
        machine.user(["docker", "start", "web"]).ok();
        machine.wait_page();
        assert!(machine.user(["curl", "-sf", "-m", "5", "http://[::1]:8080/"]).status.success());
        assert_ne!(ports(&machine), left, "{suite}");

        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    }
}

/// A docker-proxy of the user's is started, and none where there is to be none.
#[test]
fn the_users_own_choice_of_docker_proxy_is_kept() {
    let machine = Machine::boot(Suite::Forky);
    let proxy = "#!/bin/sh\necho \"$@\" >>/tmp/chosen\nexec docker-proxy \"$@\"\n";
    machine.write("/home/tester/own-proxy", proxy);
    machine.root(["chmod", "755", "/home/tester/own-proxy"]).ok();
    let daemon = r#"{"userland-proxy-path": "/home/tester/own-proxy"}"#;
    machine.write("/home/tester/.config/docker/daemon.json", daemon);
    machine.enable();
    machine.serve();
    let chosen = machine.user(["cat", "/tmp/chosen"]).ok();
    assert!(chosen.contains("-host-port 8080"), "{chosen}");

    machine.ctl(["stop"]);
    let daemon = r#"{"userland-proxy": false}"#;
    machine.write("/home/tester/.config/docker/daemon.json", daemon);
    machine.ctl(["start"]);
    machine.wait_page();
    assert!(!machine.user(["pgrep", "-x", "docker-proxy"]).status.success());
}

/// What RootlessKit publishes, a line each.
fn ports(machine: &Machine) -> Vec<String> {
    let mut ports: Vec<_> = machine
        .ctl(["list-ports"])
        .lines()
        .skip(1)
        .map(|line| line.trim_end().to_owned())
        .collect();
    ports.sort();
    ports
}

/// All that the download brought until now came in order, and more comes.
fn go_on(download: &mut Download) {
    while let Some(line) = download.lines.next_line(Duration::ZERO) {
        download.take(&line);
    }
    for _ in 0..3 {
        download.next();
    }
}

struct Download {
    lines: Spawned,
    last: u64,
}

impl Download {
    fn next(&mut self) {
        let line = self.lines.next_line(SOON).expect("the download goes on");
        self.take(&line);
    }

    fn take(&mut self, line: &str) {
        assert_eq!(line.trim().parse(), Ok(self.last + 1));
        self.last += 1;
    }
}
