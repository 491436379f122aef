//! The command line: the service, and one operation for root where there is no system bus.

use std::{process::ExitCode, str::FromStr};

use clap::{Args, Parser, Subcommand};
use rootlessd_api::{
    Error, ErrorKind, Port,
    helper::{Controller, Grant, NO_CHANGE, Outcome, PingRange},
};

use crate::{
    helper::Helper, logging, request::Request, root::Root, service, systemd::Systemd, user::User,
};

/// Does the few things that rootless Docker needs root for: narrowly, on record, and undoably.
///
/// The system bus starts it when it is called; rootlessctl calls it. Where there is no system bus,
/// root does the same with "apply".
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve org.rootlessd.Helper1 on the system bus, until there has been no work for 30 s.
    Serve,
    /// Do one operation, as root.
    Apply(Apply),
    /// Give RootlessKit its granted capability again after an upgrade of its package.
    Repair,
}

#[derive(Args, Debug)]
struct Apply {
    #[command(subcommand)]
    operation: Operation,
    /// The user to do it for.
    #[arg(long = "for", value_name = "USER", global = true)]
    user: Option<String>,
    /// Only say, file by file, what would be changed.
    #[arg(long, global = true)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum Operation {
    /// Let the user's engine listen on ports below 1024.
    GrantPorts {
        /// Such as 80 or 443/udp.
        #[arg(required = true)]
        ports: Vec<Port>,
    },
    /// Let everybody's RootlessKit listen on all of them.
    GrantBindCapability,
    /// Let everybody listen on all ports from a number on.
    SetUnprivilegedPortStart {
        /// The number, below 1024.
        start: u16,
    },
    /// Let the user's group ("own"), or all, ping.
    SetPingRange {
        /// own or all.
        #[arg(value_parser = PingRange::from_str)]
        range: PingRange,
    },
    /// Let every user's systemd have cgroup controllers.
    DelegateControllers {
        /// cpu, cpuset, io, memory, pids.
        #[arg(required = true, value_parser = Controller::from_str)]
        controllers: Vec<Controller>,
    },
    /// Give the user subordinate ids.
    #[command(name = "allocate-subids")]
    AllocateSubIds,
    /// Let everybody make user namespaces.
    AllowUserNamespaces,
    /// Let the user's running engine listen on the ports that were granted before.
    AttachGrants,
    /// Undo a grant.
    Revoke {
        /// Its id, as "list" shows it.
        grant: String,
    },
    /// Show what was granted, to all or to the user.
    List,
}

/// Runs what the command line says.
pub fn main(cli: Cli) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(error) => Err(Error::new(ErrorKind::System, error.to_string())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rootlessd-helper: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Error> {
    // Nothing that it writes is anybody else's business, unless said otherwise.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let dry = matches!(&command, Command::Apply(Apply { dry_run: true, .. }));
    if !dry && !rustix::process::geteuid().is_root() {
        return Err(Error::new(ErrorKind::AccessDenied, "only root may do this")
            .with_remedy("rootlessctl asks the helper on the system bus; or use sudo"));
    }
    logging::init(matches!(command, Command::Serve));
    let bus = zbus::Connection::system;
    match command {
        Command::Serve => {
            let bus = bus().await.map_err(|error| {
                Error::new(ErrorKind::HelperMissing, format!("there is no system bus: {error}"))
            })?;
            service::run(helper(Some(bus.clone()))?, &bus).await?;
            Ok(())
        }
        Command::Repair => {
            for path in helper(None)?.repair().await? {
                println!("{path} has its capability again");
            }
            Ok(())
        }
        Command::Apply(apply) => apply.run(&helper(bus().await.ok())?).await,
    }
}

fn helper(bus: Option<zbus::Connection>) -> Result<Helper, Error> {
    let root = Root::machine()
        .map_err(|error| Error::new(ErrorKind::System, format!("cannot open /: {error}")))?;
    Ok(Helper::new(root, Systemd::new(bus)))
}

impl Apply {
    async fn run(self, helper: &Helper) -> Result<(), Error> {
        let request = match self.operation {
            Operation::List => {
                let user = self.user.as_deref().map(User::named).transpose()?;
                helper.list(user.as_ref()).await?.iter().for_each(show_grant);
                return Ok(());
            }
            Operation::Revoke { grant } => {
                if self.dry_run {
                    println!("{}", helper.find(&grant).await?.change.describe().join("\n"));
                } else {
                    show_outcome(&helper.revoke(&grant).await?);
                }
                return Ok(());
            }
            Operation::AttachGrants => {
                let ports = helper.attach(&user(self.user.as_deref())?).await?;
                ports.iter().for_each(|port| println!("{port}"));
                return Ok(());
            }
            Operation::GrantPorts { ports } => Request::these_ports(ports.into_iter().collect())?,
            Operation::GrantBindCapability => Request::BindCapability,
            Operation::SetUnprivilegedPortStart { start } => Request::port_start(start)?,
            Operation::SetPingRange { range } => Request::PingRange(range),
            Operation::DelegateControllers { controllers } => {
                Request::Controllers(controllers.into_iter().collect())
            }
            Operation::AllocateSubIds => Request::SubIds,
            Operation::AllowUserNamespaces => Request::UserNamespaces,
        };
        let user = user(self.user.as_deref())?;
        if !self.dry_run {
            show_outcome(&helper.grant(&user, &request, None).await?);
            return Ok(());
        }
        let changes = helper.look(&user, &request).await?;
        if changes.is_empty() {
            println!("{NO_CHANGE}");
        }
        changes.iter().flat_map(|change| change.describe()).for_each(|line| println!("{line}"));
        Ok(())
    }
}

fn user(name: Option<&str>) -> Result<User, Error> {
    let name = name.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "whom is it for?").with_remedy("add --for USER")
    })?;
    User::named(name)
}

fn show_outcome(outcome: &Outcome) {
    if outcome.grants.is_empty() && outcome.notes.is_empty() {
        println!("done");
    }
    for id in &outcome.grants {
        println!("granted: {id}");
    }
    for need in &outcome.needs {
        println!("still needed: {need}");
    }
    for note in &outcome.notes {
        println!("note: {note}");
    }
}

fn show_grant(grant: &Grant) {
    println!("{} {} {}: {}", grant.id, grant.user, grant.verb, grant.text);
    grant.changes.iter().for_each(|change| println!("    {change}"));
    grant.drift.iter().for_each(|drift| println!("    drift: {drift}"));
}
