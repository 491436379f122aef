//! Ports that need a privilege: which are granted, which were refused, and who asks for them. What
//! takes its time, such as a person's decision, runs beside the supervisor.

use std::{collections::BTreeSet, fs, path::Path, rc::Rc};

use rootlessd_api::{
    Error, ErrorKind, Port, PortPrivilege, PublishedPort, Reason, helper::Outcome,
};
use tokio::{
    sync::{Mutex, oneshot},
    task::JoinSet,
};

use super::{Supervisor, handle::Reply};
use crate::{plan::Plan, reasons::Code, rootlesskit::port};

/// From here on no port needs a privilege, unless the machine's owner said otherwise.
const UNPRIVILEGED: u16 = 1024;

/// What is known, and what is under way.
#[derive(Default)]
pub(super) struct Ports {
    /// What the user was granted.
    pub granted: BTreeSet<Port>,
    /// What the engine was refused last.
    pub refused: Vec<Port>,
    /// What is asked for now.
    asked: BTreeSet<Port>,
    work: JoinSet<News>,
    /// One question at a time: a person sees one, and decides about one.
    turn: Rc<Mutex<()>>,
}

/// What some work came to.
pub(super) enum News {
    /// Nothing that the status tells.
    Nothing,
    /// What is granted now, if that could be found out.
    Granted(Result<BTreeSet<Port>, Error>),
    /// The question about a port was answered.
    Answered(Port, Result<BTreeSet<Port>, Error>),
}

impl Ports {
    /// Wait for the next news; without work, for ever.
    pub async fn news(&mut self) -> News {
        match self.work.join_next().await {
            Some(news) => news.unwrap_or(News::Nothing),
            None => std::future::pending().await,
        }
    }

    /// What a person should know.
    pub fn reasons(&self, plan: Option<&Plan>) -> impl Iterator<Item = Reason> {
        // Without the proxy, a port that was published in the end is not seen.
        let sees_success = plan.is_some_and(|plan| plan.ask_ports);
        self.refused.iter().filter(|port| !self.asked.contains(port)).filter_map(move |&port| {
            match self.granted.contains(&port) {
                false => Some(refused(port)),
                true => sees_success.then(|| granted_late(port)),
            }
        })
    }
}

impl Supervisor {
    /// List the published ports.
    pub(super) fn list_ports(&mut self, reply: Reply<Vec<PublishedPort>>) {
        let (known, helper) = (self.ports.granted.clone(), self.links.helper.clone());
        let plan = self.engine.plan.clone();
        self.ports.work.spawn_local(async move {
            let Some(plan) = plan else {
                // Whoever stopped waiting needs no answer: here and below.
                let _ = reply.send(Ok(vec![]));
                return News::Nothing;
            };
            // An administrator may have changed it meanwhile.
            let granted = helper.granted().await;
            let listed = list(&plan, granted.as_ref().unwrap_or(&known)).await;
            let _ = reply.send(listed);
            News::Granted(granted)
        });
    }

    /// Ask the helper for ports.
    pub(super) fn request_ports(
        &mut self,
        ports: BTreeSet<Port>,
        interactive: bool,
        reply: Reply<Outcome>,
    ) {
        let (turn, helper) = (self.ports.turn.clone(), self.links.helper.clone());
        self.ports.work.spawn_local(async move {
            let _turn = turn.lock().await;
            let outcome = helper.request(&ports, interactive).await;
            let granted = outcome.is_ok();
            let _ = reply.send(outcome);
            match granted {
                true => News::Granted(helper.granted().await),
                false => News::Nothing,
            }
        });
    }

    /// Look again at what is granted.
    pub(super) fn refresh_ports(&mut self, reply: Reply<()>) {
        let helper = self.links.helper.clone();
        self.ports.work.spawn_local(async move {
            let granted = helper.granted().await;
            let _ = reply.send(granted.as_ref().map(drop).map_err(Clone::clone));
            News::Granted(granted)
        });
    }

    /// A container waits for a port: ask for it, with somebody to decide.
    pub(super) fn ask_for_port(&mut self, port: Port, reply: oneshot::Sender<Result<(), String>>) {
        let (turn, helper) = (self.ports.turn.clone(), self.links.helper.clone());
        self.ports.asked.insert(port);
        self.ports.work.spawn_local(async move {
            let _turn = turn.lock().await;
            let outcome = helper.request(&BTreeSet::from([port]), true).await;
            let granted = match outcome {
                Ok(_) => helper.granted().await,
                Err(error) => Err(error),
            };
            let _ = reply.send(granted.as_ref().map(drop).map_err(why_not));
            News::Answered(port, granted)
        });
    }

    /// Take what some work came to.
    pub(super) fn learn_ports(&mut self, news: News) {
        let granted = match news {
            News::Nothing => return,
            News::Granted(granted) => granted,
            News::Answered(port, granted) => {
                self.ports.asked.remove(&port);
                match &granted {
                    Ok(_) => tracing::info!("port {port} was granted"),
                    Err(error) => tracing::info!("port {port} was not granted: {error}"),
                }
                granted
            }
        };
        if let Ok(granted) = granted {
            self.ports.granted = granted;
        }
        self.publish();
    }
}

fn refused(port: Port) -> Reason {
    let text = format!("a container could not publish port {port}, which needs a privilege");
    Code::PortPrivileged.reason_with_remedy(text, format!("rootlessctl ports allow {port}"))
}

/// Why a port was not granted, for who waits for it: the command that grants it follows.
fn why_not(error: &Error) -> String {
    match error.kind {
        ErrorKind::AccessDenied => "an administrator said no".into(),
        ErrorKind::InteractionRequired => {
            "an administrator has to agree, and there is nobody to ask here".into()
        }
        ErrorKind::HelperMissing => "rootlessd-helper, which grants it, is not installed".into(),
        _ => error.message.clone(),
    }
}

fn granted_late(port: Port) -> Reason {
    let text = format!("port {port} is granted now; the container that asked for it did not start");
    Code::PortGrantedLate.reason_with_remedy(text, "docker start NAME")
}

async fn list(plan: &Plan, granted: &BTreeSet<Port>) -> Result<Vec<PublishedPort>, Error> {
    let specs = port::published(&plan.rootlesskit_socket()).await.map_err(|error| {
        let text = format!("RootlessKit does not tell which ports are published: {error}");
        Error::new(ErrorKind::System, text)
    })?;
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let start = start.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(UNPRIVILEGED);
    let capable = plan.rootlesskit.first().is_some_and(|program| has_capability(program.as_ref()));
    let described = specs.into_iter().filter_map(|spec| {
        let port = spec.port()?;
        Some(PublishedPort {
            port,
            address: spec.parent_ip,
            child_port: spec.child_port,
            privileged: port.number < UNPRIVILEGED,
            by: privilege(port, start, granted, capable),
        })
    });
    let mut ports: Vec<_> = described.collect();
    ports.sort_by(|one, other| (one.port, &one.address).cmp(&(other.port, &other.address)));
    Ok(ports)
}

/// What lets a port be listened on, the narrowest first.
fn privilege(
    port: Port,
    start: u16,
    granted: &BTreeSet<Port>,
    capable: bool,
) -> Option<PortPrivilege> {
    match port.number {
        UNPRIVILEGED.. => None,
        _ if granted.contains(&port) => Some(PortPrivilege::Grant),
        number if number >= start => Some(PortPrivilege::Sysctl),
        _ => capable.then_some(PortPrivilege::Capability),
    }
}

/// Whether a program has a file capability: of RootlessKit it is this one that matters.
fn has_capability(program: &Path) -> bool {
    rustix::fs::getxattr(program, "security.capability", &mut [0; 64]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_privilege_is_told() {
        let port = |text: &str| text.parse::<Port>().unwrap();
        let granted = BTreeSet::from([port("80")]);
        use PortPrivilege::{Capability, Grant, Sysctl};
        for (text, start, capable, by) in [
            ("8080", 1024, true, None),
            ("80", 1024, true, Some(Grant)),
            ("80/udp", 1024, false, None),
            ("80/udp", 80, false, Some(Sysctl)),
            ("443", 1024, true, Some(Capability)),
            ("443", 443, true, Some(Sysctl)),
        ] {
            assert_eq!(privilege(port(text), start, &granted, capable), by, "{text} {start}");
        }
    }

    #[test]
    fn a_refused_port_has_its_command() {
        let port: Port = "80".parse().unwrap();
        let mut ports = Ports { refused: vec![port], ..Ports::default() };
        let reasons: Vec<_> = ports.reasons(None).collect();
        assert_eq!(reasons[0].remedy.as_deref(), Some("rootlessctl ports allow 80/tcp"));
        ports.granted.insert(port);
        assert_eq!(ports.reasons(None).count(), 0);
    }
}
