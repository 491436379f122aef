//! How the next network helper is started: with the arguments of the one that RootlessKit started,
//! which are the truth about its flags, but for what belongs to RootlessKit's own start
//! (`pkg/network/{slirp4netns,pasta}` of RootlessKit 1.1 to 3.0).

use std::path::{Path, PathBuf};

/// The file that slirp4netns writes to when it is ready.
pub const READY_FD: i32 = 3;

/// How the next one is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its arguments, without the program.
    pub arguments: Vec<String>,
    /// How it says that it is ready.
    pub ready: Ready,
    /// The socket on which slirp4netns is told which ports to publish, if it publishes any.
    pub api_socket: Option<PathBuf>,
}

/// How a helper says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// By a byte in the file [`READY_FD`].
    Byte,
    /// By its pid in the file that it was given for it.
    Pid,
}

/// How the successor of a helper of `driver` is started: `program` runs with the command line
/// `running`, and `pid_file` is where a pasta is to say that it is ready. An error says why there
/// can be none.
pub fn successor(
    driver: &str,
    ports: &str,
    program: &Path,
    running: &[String],
    pid_file: &Path,
) -> Result<Successor, String> {
    if let Some(why) = why_none(driver, ports) {
        return Err(why);
    }
    let words = arguments(program, running).iter().map(String::as_str);
    Ok(match driver {
        "slirp4netns" => of_slirp4netns(words),
        _ => of_pasta(words, pid_file),
    })
}

/// Why a helper of `driver`, beside the port driver `ports`, can have no successor; `None` if it can.
pub fn why_none(driver: &str, ports: &str) -> Option<String> {
    match (driver, ports) {
        ("pasta", "pesto") => {
            Some("what it had published is known to nobody else with the port driver pesto".into())
        }
        ("slirp4netns" | "pasta", _) => None,
        _ => Some(format!("RootlessKit connects to {driver} once only")),
    }
}

/// The arguments in a command line, which begins with an interpreter if the program is a script.
fn arguments<'a>(program: &Path, running: &'a [String]) -> &'a [String] {
    let own = running.iter().position(|word| Path::new(word) == program).unwrap_or(0);
    running.get(own + 1..).unwrap_or_default()
}

/// The tap device, its address and its route are still there: RootlessKit made them, and a second
/// `--configure` would fail.
fn of_slirp4netns<'a>(mut words: impl Iterator<Item = &'a str>) -> Successor {
    let mut arguments = vec![format!("--ready-fd={READY_FD}")];
    let mut api_socket = None;
    while let Some(word) = words.next() {
        match name_and_value(word) {
            ("-c" | "--configure", _) => {}
            ("-r" | "--ready-fd" | "-e" | "--exit-fd", value) => {
                if value.is_none() {
                    words.next();
                }
            }
            ("-a" | "--api-socket", value) => {
                let path = value.or_else(|| words.next()).unwrap_or_default();
                arguments.push(format!("--api-socket={path}"));
                api_socket = Some(path.into());
            }
            _ => arguments.push(word.to_owned()),
        }
    }
    Successor { arguments, ready: Ready::Byte, api_socket }
}

/// RootlessKit 2 keeps pasta in the foreground, RootlessKit 3 lets it go to the background and make
/// the tap device itself, which goes with it.
fn of_pasta<'a>(mut words: impl Iterator<Item = &'a str>, pid_file: &Path) -> Successor {
    let mut arguments = vec!["--foreground".to_owned(), format!("--pid={}", pid_file.display())];
    while let Some(word) = words.next() {
        match name_and_value(word) {
            ("-f" | "--foreground", _) => {}
            ("-P" | "--pid", value) => {
                if value.is_none() {
                    words.next();
                }
            }
            _ => arguments.push(word.to_owned()),
        }
    }
    Successor { arguments, ready: Ready::Pid, api_socket: None }
}

fn name_and_value(word: &str) -> (&str, Option<&str>) {
    match word.split_once('=') {
        Some((name, value)) if name.starts_with("--") => (name, Some(value)),
        _ => (word, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLIRP: &str = "/usr/bin/slirp4netns";
    const PASTA: &str = "/usr/bin/pasta";

    fn words(text: &str) -> Vec<String> {
        text.split_ascii_whitespace().map(str::to_owned).collect()
    }

    /// The command lines are those that were seen, of the RootlessKit that is named.
    #[test]
    fn arguments_of_the_next_one() {
        let rows = [
            // 1.1.0 and 2.0.2 alike; sandbox and seccomp are RootlessKit's "auto".
            (
                "slirp4netns",
                "/usr/bin/slirp4netns --mtu 65520 -r 3 --disable-host-loopback --enable-sandbox \
                 --enable-seccomp 4242 tap0",
                "--ready-fd=3 --mtu 65520 --disable-host-loopback --enable-sandbox \
                 --enable-seccomp 4242 tap0",
                None,
            ),
            // Its own port driver, IPv6, another network.
            (
                "slirp4netns",
                "/usr/bin/slirp4netns --mtu 1500 -r 3 --cidr 10.9.0.0/24 --api-socket \
                 /run/user/1000/dockerd-rootless/.s4nn.sock --enable-ipv6 4242 tap0",
                "--ready-fd=3 --mtu 1500 --cidr 10.9.0.0/24 \
                 --api-socket=/run/user/1000/dockerd-rootless/.s4nn.sock --enable-ipv6 4242 tap0",
                Some("/run/user/1000/dockerd-rootless/.s4nn.sock"),
            ),
            // 2.0.2 with --detach-netns.
            (
                "slirp4netns",
                "/usr/bin/slirp4netns --mtu 65520 -r 3 --disable-host-loopback --enable-seccomp \
                 --userns-path=/proc/4242/ns/user --netns-type=path \
                 /proc/4242/root/run/user/1000/dockerd-rootless/netns tap0",
                "--ready-fd=3 --mtu 65520 --disable-host-loopback --enable-seccomp \
                 --userns-path=/proc/4242/ns/user --netns-type=path \
                 /proc/4242/root/run/user/1000/dockerd-rootless/netns tap0",
                None,
            ),
            // A script in its place, and what no RootlessKit passes but slirp4netns takes.
            (
                "slirp4netns",
                "/bin/sh /usr/bin/slirp4netns -c --exit-fd=4 -e 5 --ready-fd 6 -a /x --mtu=1500 \
                 4242 tap0",
                "--ready-fd=3 --api-socket=/x --mtu=1500 4242 tap0",
                Some("/x"),
            ),
            // 2.0.2.
            (
                "pasta",
                "/usr/bin/pasta --foreground --stderr --ns-ifname=tap0 --mtu=65520 --no-dhcp \
                 --no-ra --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 \
                 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=auto \
                 4242",
                "--foreground --pid=/e/ready --stderr --ns-ifname=tap0 --mtu=65520 --no-dhcp \
                 --no-ra --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 \
                 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=auto \
                 4242",
                None,
            ),
            // 3.0.1 with --detach-netns; a pid file that no RootlessKit asks for.
            (
                "pasta",
                "/usr/bin/pasta --stderr -P /y --ns-ifname=tap0 --mtu=65520 --config-net \
                 --address=10.0.2.100 --host-lo-to-ns-lo --userns=/proc/4242/ns/user \
                 --netns=/proc/4242/root/run/user/1000/dockerd-rootless/netns",
                "--foreground --pid=/e/ready --stderr --ns-ifname=tap0 --mtu=65520 --config-net \
                 --address=10.0.2.100 --host-lo-to-ns-lo --userns=/proc/4242/ns/user \
                 --netns=/proc/4242/root/run/user/1000/dockerd-rootless/netns",
                None,
            ),
        ];
        for (driver, running, expected, api_socket) in rows {
            let program = Path::new(if driver == "pasta" { PASTA } else { SLIRP });
            let found =
                successor(driver, "", program, &words(running), Path::new("/e/ready")).unwrap();
            assert_eq!(found.arguments, words(expected), "{running}");
            assert_eq!(found.api_socket.as_deref(), api_socket.map(Path::new), "{running}");
        }
    }

    #[test]
    fn some_have_no_successor() {
        for (driver, ports) in [("vpnkit", "builtin"), ("pasta", "pesto")] {
            let found = successor(driver, ports, Path::new(PASTA), &words("x y"), Path::new("/e"));
            assert!(found.is_err(), "{driver} {ports}");
        }
    }
}
