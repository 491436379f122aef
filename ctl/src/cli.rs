//! The command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    ArgAction, Args, Parser, Subcommand,
    builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use rootlessd_api::Part;

use crate::{
    privilege::cli::{Cgroup, Ping, Ports, Privileges, Subids, Userns},
    since::by_the_clock,
};

/// Control rootlessd, the supervisor of rootless Docker.
///
/// list-ports, add-ports, remove-ports and info are RootlessKit's own commands.
#[derive(Debug, Parser)]
#[command(name = "rootlessctl", version, disable_version_flag = true)]
pub struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub rootlesskit: Rootlesskit,
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What rootlessctl can be asked for.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show how the engine is
    Status(Patience),
    /// Start the engine
    Start(Request),
    /// Stop the engine and its containers
    Stop(Request),
    /// Stop the engine and start it again; its socket stays
    Restart(Restart),
    /// Move over to a newer dockerd or containerd, under the containers
    Upgrade(Request),
    /// Have the configuration read again
    Reload(Patience),
    /// Forget that the engine failed
    ResetFailed(Patience),
    /// Print a line at every change of the status
    Watch(Patience),
    /// Show what happened: states, deaths, parts that were replaced, reasons
    Events(Events),
    /// Show what the parts of the engine wrote
    Logs(Logs),
    /// Show the effective configuration, and where each value comes from
    Config(Patience),
    /// Show the published ports; allow those below 1024
    Ports(Ports),
    /// Show what was granted to you, and undo it
    Privileges(Privileges),
    /// Let containers ping
    #[command(subcommand)]
    Ping(Ping),
    /// Let limits of containers have an effect
    #[command(subcommand)]
    Cgroup(Cgroup),
    /// Get subordinate user and group ids
    #[command(subcommand)]
    Subids(Subids),
    /// Let users make user namespaces
    #[command(subcommand)]
    Userns(Userns),
    /// Print DOCKER_HOST for the shell: eval "$(rootlessctl env)"
    Env,
    /// Show the versions of rootlessctl, rootlessd and the engine
    Version(Patience),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        #[arg(value_parser = PossibleValuesParser::new(["bash", "zsh", "fish"])
            .try_map(|shell| shell.parse::<Shell>()))]
        shell: Shell,
    },
    /// List ports (RootlessKit)
    ListPorts {
        #[command(flatten)]
        rootlesskit: Rootlesskit,
    },
    /// Add ports (RootlessKit)
    AddPorts {
        #[command(flatten)]
        rootlesskit: Rootlesskit,
        /// What to publish: PARENTIP:PARENTPORT[:CHILDIP]:CHILDPORT/PROTO
        specs: Vec<String>,
    },
    /// Remove ports (RootlessKit)
    RemovePorts {
        #[command(flatten)]
        rootlesskit: Rootlesskit,
        /// The ports' ids, as list-ports shows them
        #[arg(value_name = "ID")]
        ids: Vec<String>,
    },
    /// Show info about RootlessKit
    Info {
        #[command(flatten)]
        rootlesskit: Rootlesskit,
    },
    /// Be the main process of docker.service: up while the engine is up
    #[command(hide = true)]
    Unit,
}

impl Verb {
    /// Whether it is RootlessKit's own.
    pub fn is_rootlesskit(&self) -> bool {
        matches!(
            self,
            Self::ListPorts { .. }
                | Self::AddPorts { .. }
                | Self::RemovePorts { .. }
                | Self::Info { .. }
        )
    }

    /// Whether a word of the command line is the name of one of RootlessKit's own.
    pub fn names_rootlesskit(word: &str) -> bool {
        matches!(word, "list-ports" | "add-ports" | "remove-ports" | "info")
    }
}

/// What RootlessKit's commands take, before or after their name.
#[derive(Clone, Debug, Default, Args)]
pub struct Rootlesskit {
    /// RootlessKit's api.sock [default: $ROOTLESSKIT_STATE_DIR/api.sock, or the supervised engine's]
    #[arg(long, value_name = "PATH", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub socket: Option<PathBuf>,
    /// Accepted, as by RootlessKit
    #[arg(long)]
    pub debug: bool,
}

impl Rootlesskit {
    /// What was given after the name, then what was given before it.
    #[must_use]
    pub fn or(self, before: &Self) -> Self {
        Self {
            socket: self.socket.or_else(|| before.socket.clone()),
            debug: self.debug || before.debug,
        }
    }
}

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug, Args)]
pub struct Patience {
    /// How long to wait for an answer, such as 500ms, 5s or 2min
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// A request that sets a job going.
#[derive(Clone, Copy, Debug, Args)]
pub struct Request {
    /// Wait until it is done (the default)
    #[arg(long, overrides_with = "no_block")]
    pub wait: bool,
    /// Return as soon as the request is accepted
    #[arg(long)]
    pub no_block: bool,
    /// How long it may take, such as 500ms, 30s or 2min; the engine goes on after it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// A restart.
#[derive(Clone, Copy, Debug, Args)]
pub struct Restart {
    /// Only replace containerd and dockerd, under the containers, which go on
    #[arg(long)]
    pub keep_containers: bool,
    #[command(flatten)]
    pub request: Request,
}

/// Which lines of the logs.
#[derive(Clone, Debug, Args)]
pub struct Logs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines from the end, or "all"
    #[arg(short = 'n', long, value_name = "N", default_value = "100", value_parser = lines)]
    pub lines: Lines,
    /// Only what this part wrote; may be given several times
    #[arg(long = "part", value_name = "PART", value_parser = PossibleValuesParser::new(
        Part::ALL.iter().map(|part| part.as_str()))
        .try_map(|part| part.parse::<Part>()))]
    pub parts: Vec<Part>,
    #[command(flatten)]
    pub patience: Patience,
}

/// Which events.
#[derive(Clone, Debug, Args)]
pub struct Events {
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Only what happened since then: 10m, "1 hour ago", 09:30, yesterday, 2026-11-24T23:05:00Z
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = by_the_clock)]
    pub since: Option<u64>,
    /// How many from the end, or "all" [default: 100, or all with --since]
    #[arg(short = 'n', long, value_name = "N", value_parser = lines)]
    pub lines: Option<Lines>,
    /// Only what is about this part; may be given several times
    #[arg(long = "part", value_name = "PART", value_parser = PossibleValuesParser::new(
        Part::ALL.iter().map(|part| part.as_str()))
        .try_map(|part| part.parse::<Part>()))]
    pub parts: Vec<Part>,
    #[command(flatten)]
    pub patience: Patience,
}

/// How many lines from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// All there are.
    All,
    /// So many.
    Last(usize),
}

/// The arguments with RootlessKit's one-dash spellings in the usual form: its command line is Go's,
/// where `-json` and `--json` are the same.
pub fn normalise(arguments: Vec<OsString>) -> Vec<OsString> {
    let one_dash = |argument: &OsString| {
        let text = argument.to_str()?;
        let name = text.split('=').next()?;
        matches!(name, "-json" | "-debug" | "-socket").then(|| OsString::from(format!("-{text}")))
    };
    let mut verbatim = false;
    arguments
        .into_iter()
        .map(|argument| {
            verbatim |= argument == "--";
            if verbatim { argument } else { one_dash(&argument).unwrap_or(argument) }
        })
        .collect()
}

fn duration(text: &str) -> Result<Duration, String> {
    let length = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|length| Duration::try_from(length).ok())
            .ok_or("not a length of time, such as 500ms, 5s or 2min")?,
    };
    // Beyond it the µs of the API would not fit, and nobody waits a century.
    match length {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        _ if length > Duration::from_secs(100 * 366 * 86_400) => {
            Err("longer than a century".to_owned())
        }
        _ => Ok(length),
    }
}

fn lines(text: &str) -> Result<Lines, String> {
    match text {
        "all" => Ok(Lines::All),
        _ => text.parse().map(Lines::Last).map_err(|_| "not a number, nor \"all\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let words = line.split(' ').map(OsString::from).collect();
        Cli::try_parse_from(normalise(words))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_has_every_verb_and_option() {
        let manual = include_str!("../../docs/rootlessctl.md");
        let mut rest: Vec<_> = Cli::command().get_subcommands().cloned().collect();
        while let Some(verb) = rest.pop() {
            if verb.is_hide_set() {
                continue;
            }
            assert!(manual.contains(verb.get_name()), "the manual lacks {}", verb.get_name());
            for option in verb.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(manual.contains(&format!("--{option}")), "the manual lacks --{option}");
            }
            rest.extend(verb.get_subcommands().cloned());
        }
    }

    #[test]
    fn json_goes_before_or_after_the_verb() {
        assert!(parse("rootlessctl --json status").unwrap().json);
        assert!(parse("rootlessctl status --json").unwrap().json);
    }

    #[test]
    fn rootlesskit_s_options_go_before_or_after_its_verbs() {
        for line in [
            "rootlessctl --socket /s --debug list-ports --json",
            "rootlessctl list-ports --socket /s --debug --json",
            "rootlessctl -socket /s -debug list-ports -json",
            "rootlessctl -socket=/s -debug list-ports -json",
        ] {
            let cli = parse(line).unwrap();
            let Some(Verb::ListPorts { rootlesskit }) = cli.verb else { panic!("{line}") };
            let both = rootlesskit.or(&cli.rootlesskit);
            assert_eq!((both.socket, both.debug, cli.json), (Some("/s".into()), true, true));
        }
    }

    #[test]
    fn lengths_of_time() {
        for (text, millis) in [
            ("5", 5_000),
            ("500ms", 500),
            ("2min", 120_000),
            ("1h 30m", 5_400_000),
            ("1.5s", 1_500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "soon", "-5s", "0", "5 parsecs", "99999999999999"] {
            duration(text).unwrap_err();
        }
    }

    #[test]
    fn parts_are_the_api_s() {
        let cli = parse("rootlessctl logs -f -n all --part dockerd --part network").unwrap();
        let Some(Verb::Logs(logs)) = cli.verb else { panic!() };
        assert_eq!(logs.parts, [Part::Dockerd, Part::Network]);
        assert_eq!((logs.follow, logs.lines), (true, Lines::All));
        parse("rootlessctl logs --part kernel").unwrap_err();
    }

    #[test]
    fn the_last_of_wait_and_no_block_counts() {
        let request = |line: &str| match parse(line).unwrap().verb {
            Some(Verb::Start(request)) => request.no_block,
            _ => panic!(),
        };
        assert!(!request("rootlessctl start"));
        assert!(request("rootlessctl start --no-block"));
        assert!(!request("rootlessctl start --no-block --wait"));
    }
}
