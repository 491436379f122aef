//! The command line of the verbs that need the helper.

use std::str::FromStr as _;

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use rootlessd_api::{Port, helper::Controller};

use crate::cli::Patience;

/// `ports`: show them, or ask for some.
#[derive(Debug, Args)]
pub struct Ports {
    #[command(flatten)]
    pub patience: Patience,
    #[command(subcommand)]
    pub action: Option<PortsAction>,
}

/// What can be done about ports.
#[derive(Debug, Subcommand)]
pub enum PortsAction {
    /// Let your engine listen on ports below 1024
    Allow(AllowPorts),
    /// Take back what was allowed
    Revoke(RevokePorts),
}

/// Which ports to allow, and to whom.
#[derive(Debug, Args)]
pub struct AllowPorts {
    /// The ports, such as 80 or 443/udp: for your engine alone
    #[arg(value_name = "PORT", required_unless_present = "all_below_1024")]
    #[arg(conflicts_with_all = ["all_below_1024", "by"])]
    pub ports: Vec<Port>,
    /// All ports below 1024, and not for you alone
    #[arg(long, requires = "by")]
    pub all_below_1024: bool,
    /// By what all ports are allowed
    #[arg(long, value_name = "HOW", requires = "all_below_1024")]
    pub by: Option<By>,
    #[command(flatten)]
    pub how: How,
}

/// By what all ports below 1024 are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// A file capability: for every user who may run RootlessKit
    Capability,
    /// A kernel setting: for every program of every user
    Sysctl,
}

/// Which ports to take back.
#[derive(Debug, Args)]
pub struct RevokePorts {
    /// The ports, such as 80 or 443/udp
    #[arg(value_name = "PORT", required_unless_present = "all_below_1024")]
    #[arg(conflicts_with = "all_below_1024")]
    pub ports: Vec<Port>,
    /// What you had allowed with --all-below-1024
    #[arg(long)]
    pub all_below_1024: bool,
    #[command(flatten)]
    pub dry: DryRun,
}

/// `privileges`: the ledger.
#[derive(Debug, Args)]
pub struct Privileges {
    /// What was granted to all users: for administrators
    #[arg(long)]
    pub all: bool,
    #[command(subcommand)]
    pub action: Option<PrivilegesAction>,
}

/// What can be done about privileges.
#[derive(Debug, Subcommand)]
pub enum PrivilegesAction {
    /// Undo a grant
    Revoke {
        /// Its id, or what no other one begins with
        #[arg(value_parser = id)]
        id: String,
        #[command(flatten)]
        dry: DryRun,
    },
}

/// `ping`.
#[derive(Debug, Subcommand)]
pub enum Ping {
    /// Let your containers ping
    Allow {
        /// Not only your group, but every one
        #[arg(long)]
        everybody: bool,
        #[command(flatten)]
        how: How,
    },
}

/// `cgroup`.
#[derive(Debug, Subcommand)]
pub enum Cgroup {
    /// Let limits of containers have an effect: cgroup controllers for every user's systemd
    Delegate {
        /// Which; without any, all that containers use and the machine has
        #[arg(value_name = "CONTROLLER", value_parser = PossibleValuesParser::new(
            Controller::ALL.iter().map(|controller| controller.as_str()))
            .try_map(|word| Controller::from_str(&word)))]
        controllers: Vec<Controller>,
        #[command(flatten)]
        how: How,
    },
}

/// `subids`.
#[derive(Debug, Subcommand)]
pub enum Subids {
    /// Get 65536 user and group ids for your containers, if you have fewer
    Allocate {
        #[command(flatten)]
        how: How,
    },
}

/// `userns`.
#[derive(Debug, Subcommand)]
pub enum Userns {
    /// Let every user make user namespaces, where the machine has them turned off
    Allow {
        #[command(flatten)]
        how: How,
    },
}

/// How a change is asked for.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct How {
    /// Ask nothing on the terminal (who has to agree is still asked)
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub dry: DryRun,
}

/// Whether a change is only looked at.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct DryRun {
    /// Only show what would be changed
    #[arg(long)]
    pub dry_run: bool,
}

fn id(text: &str) -> Result<String, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    match text.len() {
        1..=32 if digits => Ok(text.to_owned()),
        _ => Err("an id is hexadecimal, as \"rootlessctl privileges\" shows it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        let words = ["rootlessctl"].into_iter().chain(line.split(' '));
        Cli::try_parse_from(words).map(|cli| cli.verb.unwrap())
    }

    #[test]
    fn ports_are_shown_or_named_or_all() {
        for line in ["ports", "ports --json", "--json ports --timeout 5s"] {
            let Verb::Ports(Ports { action: None, .. }) = parse(line).unwrap() else {
                panic!("{line}")
            };
        }
        let line = "ports --json allow 80 443/udp --dry-run";
        let Verb::Ports(Ports { action: Some(PortsAction::Allow(allow)), .. }) =
            parse(line).unwrap()
        else {
            panic!()
        };
        let ports: Vec<_> = allow.ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["80/tcp", "443/udp"]);
        assert!(allow.how.dry.dry_run && !allow.how.yes);
        for line in [
            "ports allow --all-below-1024 --by sysctl",
            "ports allow --all-below-1024 --by capability --yes",
            "ports revoke 80",
            "ports revoke --all-below-1024",
        ] {
            parse(line).unwrap();
        }
        for line in [
            "ports allow",
            "ports allow http",
            "ports allow 0",
            "ports allow 80/sctp",
            "ports allow --all-below-1024",
            "ports allow --by sysctl",
            "ports allow 80 --by sysctl",
            "ports allow 80 --all-below-1024 --by sysctl",
            "ports allow --all-below-1024 --by magic",
            "ports revoke",
            "ports revoke 80 --all-below-1024",
        ] {
            parse(line).unwrap_err();
        }
    }

    #[test]
    fn an_id_is_hexadecimal() {
        for line in ["privileges revoke 3f2a", "privileges revoke 0123456789abcdef0123456789abcdef"]
        {
            parse(line).unwrap();
        }
        for line in [
            "privileges revoke",
            "privileges revoke x",
            "privileges revoke 3F",
            "privileges revoke ",
        ] {
            parse(line).unwrap_err();
        }
    }

    #[test]
    fn the_others() {
        for line in [
            "privileges --all --json",
            "ping allow --everybody",
            "cgroup delegate",
            "cgroup delegate cpu cpuset io memory pids --dry-run",
            "subids allocate -y",
            "userns allow",
        ] {
            parse(line).unwrap();
        }
        for line in ["ping", "cgroup", "cgroup delegate devices", "subids", "userns"] {
            parse(line).unwrap_err();
        }
    }
}
