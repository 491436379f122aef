//! Privileges: what `rootlessd-helper` does for the user, on the system bus.
//!
//! rootlessctl calls it itself, not through rootlessd: polkit asks by an agent of the process that
//! calls, and so works over ssh, where rootlessctl starts one. Nothing here is touched by the other
//! verbs.

mod agent;
mod apply;
mod ask;
pub mod cli;
mod grant;
mod helper;
mod ledger;
mod ports;
mod request;
mod revoke;

use std::{fs, path::Path};

use rootlessd_api::helper::Controller;

use self::{
    cli::{By, Cgroup, Ping, Ports, PortsAction, Privileges, PrivilegesAction, Subids, Userns},
    request::Request,
};
use crate::{exit::Exit, failure::Failure, supervisor::Supervisor};

/// `ports`.
pub async fn ports(ports: Ports, json: bool) -> Result<Exit, Failure> {
    match ports.action {
        None => ports::list(ports.patience, json).await,
        Some(PortsAction::Allow(allow)) => {
            let request = match allow.by {
                None => Request::Ports(allow.ports),
                Some(By::Capability) => Request::BindCapability,
                Some(By::Sysctl) => Request::PortStart(0),
            };
            grant::run(&request, allow.how, json).await
        }
        Some(PortsAction::Revoke(revoke)) => {
            let which = match revoke.all_below_1024 {
                true => revoke::Which::AllBelow1024,
                false => revoke::Which::Ports(revoke.ports),
            };
            revoke::run(&which, revoke.dry, json).await
        }
    }
}

/// `privileges`.
pub async fn privileges(privileges: Privileges, json: bool) -> Result<Exit, Failure> {
    match privileges.action {
        None => ledger::list(privileges.all, json).await,
        Some(PrivilegesAction::Revoke { id, dry }) => {
            revoke::run(&revoke::Which::Id(id), dry, json).await
        }
    }
}

/// `ping`.
pub async fn ping(ping: Ping, json: bool) -> Result<Exit, Failure> {
    let Ping::Allow { everybody, how } = ping;
    grant::run(&Request::ping_range(everybody), how, json).await
}

/// `cgroup`.
pub async fn cgroup(cgroup: Cgroup, json: bool) -> Result<Exit, Failure> {
    let Cgroup::Delegate { mut controllers, how } = cgroup;
    if controllers.is_empty() {
        let machine = fs::read_to_string(Path::new("/sys/fs/cgroup/cgroup.controllers"));
        controllers = usual_controllers(&machine.unwrap_or_default());
    }
    grant::run(&Request::Controllers(controllers), how, json).await
}

/// `subids`.
pub async fn subids(subids: Subids, json: bool) -> Result<Exit, Failure> {
    let Subids::Allocate { how } = subids;
    grant::run(&Request::SubIds, how, json).await
}

/// `userns`.
pub async fn userns(userns: Userns, json: bool) -> Result<Exit, Failure> {
    let Userns::Allow { how } = userns;
    grant::run(&Request::UserNamespaces, how, json).await
}

/// Tells the supervisor that other ports are granted now. One that is not there has nothing to show.
async fn tell_supervisor() {
    let told = async {
        let supervisor = Supervisor::find(None)?;
        let mut client = supervisor.connect().await?;
        supervisor.answer(client.refresh_ports()).await
    };
    let _: Result<(), Failure> = told.await;
}

/// Those that containers use, of those that the machine has. Where it has none of them, all: the
/// helper then says what the machine lacks.
fn usual_controllers(machine: &str) -> Vec<Controller> {
    let has = |controller: &&Controller| {
        machine.split_whitespace().any(|word| word == controller.as_str())
    };
    let usual: Vec<_> = Controller::ALL.iter().filter(has).copied().collect();
    if usual.is_empty() { Controller::ALL.to_vec() } else { usual }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_that_the_machine_has() {
        use Controller::{Cpu, Io, Memory, Pids};
        let machine = "cpu io memory hugetlb pids rdma misc\n";
        assert_eq!(usual_controllers(machine), [Cpu, Io, Memory, Pids]);
        assert_eq!(usual_controllers("hugetlb\n"), Controller::ALL);
        assert_eq!(usual_controllers(""), Controller::ALL);
    }
}
