//! `rootlessctl status`: everything about the engine that fits on a screen.

use anstyle::Style;
use rootlessd_api::{Death, Incident, Part, Process, Reason, State, Status};

use crate::{
    cli::Patience,
    exit::Exit,
    failure::Failure,
    human::{Clock, bytes, printable, timestamp},
    output::{self, Palette},
    supervisor::{Supervisor, understood},
};

/// How many deaths and incidents are shown; `--json` has them all.
const SHOWN: usize = 5;

/// Show how the engine is.
pub async fn run(patience: Patience, json: bool) -> Result<Exit, Failure> {
    let status = Supervisor::find(patience.timeout)?.raw_status().await?;
    if json {
        output::json(&status)?;
    } else {
        let status = understood(&status)?;
        output::text(&render(&status, &Clock::system(), Palette::of_stdout()))?;
    }
    let word = status.get("state").and_then(serde_json::Value::as_str);
    Ok(Exit::of_state(word.unwrap_or_default()))
}

/// The status for a person.
pub fn render(status: &Status, clock: &Clock, palette: Palette) -> String {
    let mut page = Page { text: headline(status, clock, palette), palette };
    for reason in &status.reasons {
        page.reason(reason);
    }
    page.text.push('\n');
    page.field("versions", &versions(status));
    page.field("supervisor", &supervisor(status, clock));
    page.field("socket", &format!("unix://{}", printable(&status.socket_path)));
    if let Some(root) = &status.data_root {
        page.field("data", &with_note(root, status.storage_driver.as_deref()));
    }
    if let Some(directory) = &status.state_dir {
        page.field("state", &printable(directory));
    }
    page.field("network", &network(status));
    page.field("cgroups", &cgroups(status));
    if let Some(count) = status.containers_running {
        page.field("containers", &format!("{count} running"));
    }
    page.field("on demand", &on_demand(status, clock));
    page.processes(&status.processes);
    page.deaths(&status.deaths, clock);
    page.incidents(&status.incidents, clock);
    if status.state == State::Failed
        && let Some(death) = status.deaths.last()
    {
        page.last_lines(death);
    }
    page.text
}

fn headline(status: &Status, clock: &Clock, palette: Palette) -> String {
    let (mark, style, words) = match status.state {
        State::Stopped => ("○", palette.faint, "is stopped"),
        State::Listening => ("○", palette.faint, "starts with its first client"),
        State::Starting => ("●", palette.warning, "is starting"),
        State::Running => ("●", palette.good, "is running"),
        State::Degraded => ("●", palette.warning, "is running, but degraded"),
        State::Stopping => ("●", palette.warning, "is stopping"),
        State::Backoff => ("●", palette.bad, "died"),
        State::Failed => ("×", palette.bad, "has failed"),
        State::Unknown => (
            "○",
            palette.warning,
            "is in a state that this rootlessctl does not know: see rootlessctl status --json",
        ),
    };
    let phase = status.phase.map(|phase| format!(": {phase}")).unwrap_or_default();
    let next = match (status.state, status.next_attempt) {
        (State::Backoff, Some(at)) => {
            format!(", and is started again {}", clock.until(timestamp(at)))
        }
        _ => String::new(),
    };
    let since = timestamp(status.since);
    format!(
        "{style}{mark} Docker {words}{phase}{next}{style:#} (since {}, {})\n",
        clock.date(since),
        clock.ago(since)
    )
}

fn versions(status: &Status) -> String {
    let all = [
        ("Docker", &status.version),
        ("containerd", &status.containerd_version),
        ("runc", &status.runc_version),
        ("RootlessKit", &status.rootlesskit_version),
    ];
    let known = all.iter().filter_map(|(name, version)| {
        version.as_ref().map(|version| format!("{name} {}", printable(version)))
    });
    known.collect::<Vec<_>>().join(", ")
}

fn supervisor(status: &Status, clock: &Clock) -> String {
    let supervisor = &status.supervisor;
    format!(
        "rootlessd {}, pid {}, {} (since {})",
        printable(&supervisor.version),
        supervisor.pid,
        if supervisor.systemd { "under systemd" } else { "without systemd" },
        clock.date(timestamp(supervisor.since)),
    )
}

fn network(status: &Status) -> String {
    let Some(driver) = &status.network_driver else { return String::new() };
    match &status.port_driver {
        Some(ports) => format!("{}, ports by {}", printable(driver), printable(ports)),
        None => printable(driver).into_owned(),
    }
}

fn cgroups(status: &Status) -> String {
    let driver = match status.cgroup_driver.as_deref() {
        None => return String::new(),
        Some("none") => "no driver: limits of containers have no effect".to_owned(),
        Some(driver) => format!("{} driver", printable(driver)),
    };
    if status.controllers.is_empty() {
        return driver;
    }
    format!("{driver}; controllers {}", printable(&status.controllers.join(" ")))
}

fn on_demand(status: &Status, clock: &Clock) -> String {
    let times = match status.demand_starts {
        0 => return String::new(),
        1 => "started once".to_owned(),
        count => format!("started {count} times"),
    };
    match status.last_demand_start.map(timestamp) {
        Some(at) => format!("{times}, last {} ({})", clock.date(at), clock.ago(at)),
        None => times,
    }
}

fn with_note(text: &str, note: Option<&str>) -> String {
    match note {
        Some(note) => format!("{} ({})", printable(text), printable(note)),
        None => printable(text).into_owned(),
    }
}

/// A page that is being written.
struct Page {
    text: String,
    palette: Palette,
}

impl Page {
    fn reason(&mut self, reason: &Reason) {
        let style = self.palette.warning;
        let code = printable(&reason.code);
        self.push(&format!("  {style}!{style:#} {} [{code}]", printable(&reason.text)));
        if let Some(remedy) = &reason.remedy {
            let style = self.palette.strong;
            self.push(&format!("    what to do: {style}{}{style:#}", printable(remedy)));
        }
    }

    /// A labelled line, or nothing where there is nothing to say.
    fn field(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            self.labelled(label, value, Style::new());
        }
    }

    fn processes(&mut self, processes: &[Process]) {
        let widths = Widths::of(processes);
        for (index, process) in processes.iter().enumerate() {
            let label = if index == 0 { "processes" } else { "" };
            self.labelled(label, &widths.row(process), Style::new());
        }
        if processes.len() > 1 {
            let total = processes.iter().map(|process| process.memory).sum();
            self.labelled("", &widths.total(total), self.palette.faint);
        }
    }

    fn deaths(&mut self, deaths: &[Death], clock: &Clock) {
        let deaths = deaths.iter().map(|death| (death.at, death.part, &*death.text));
        self.history("deaths", &deaths.collect::<Vec<_>>(), clock);
    }

    fn incidents(&mut self, incidents: &[Incident], clock: &Clock) {
        let incidents = incidents.iter().map(|it| (it.at, it.part, &*it.text));
        self.history("incidents", &incidents.collect::<Vec<_>>(), clock);
    }

    fn history(&mut self, name: &str, entries: &[(u64, Part, &str)], clock: &Clock) {
        let hidden = entries.len().saturating_sub(SHOWN);
        for (index, (at, part, text)) in entries[hidden..].iter().enumerate() {
            let label = if index == 0 { name } else { "" };
            let date = clock.date(timestamp(*at));
            self.labelled(label, &format!("{date}  {part}: {}", printable(text)), Style::new());
        }
        if hidden > 0 {
            self.labelled("", &format!("and {hidden} before"), self.palette.faint);
        }
    }

    fn last_lines(&mut self, death: &Death) {
        if death.log.is_empty() {
            return;
        }
        self.push(&format!("\n  last lines of {}:", death.part));
        let style = self.palette.faint;
        for line in &death.log {
            self.push(&format!("    {style}{}{style:#}", printable(line)));
        }
    }

    fn labelled(&mut self, label: &str, value: &str, style: Style) {
        let faint = self.palette.faint;
        self.push(&format!("  {faint}{label:<10}{faint:#}  {style}{value}{style:#}"));
    }

    fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// The widths of the columns of the processes: part, pid, memory; the name comes last.
struct Widths {
    part: usize,
    pid: usize,
}

impl Widths {
    const MEMORY: usize = 10;

    fn of(processes: &[Process]) -> Self {
        let width = |text: &dyn Fn(&Process) -> String| {
            processes.iter().map(|process| text(process).len()).max().unwrap_or_default()
        };
        Self {
            part: width(&|process| process.part.to_string()),
            pid: width(&|process| process.pid.to_string()),
        }
    }

    fn row(&self, process: &Process) -> String {
        let Process { part, pid, name, memory } = process;
        let memory = if *memory == 0 { "?".to_owned() } else { bytes(*memory) };
        let name = if name == part.as_str() { String::new() } else { format!("  {name}") };
        self.columns(part.as_str(), &pid.to_string(), &memory) + &printable(&name)
    }

    fn total(&self, memory: u64) -> String {
        self.columns("", "", &bytes(memory))
    }

    fn columns(&self, part: &str, pid: &str, memory: &str) -> String {
        format!("{part:<0$}  {pid:>1$}  {memory:>2$}", self.part, self.pid, Self::MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn plain(status: &Status) -> String {
        render(status, &samples::clock(), Palette::PLAIN)
    }

    #[test]
    fn a_running_engine() {
        assert_eq!(
            plain(&samples::running()),
            "\
● Docker is running (since Mon 2025-11-24 23:02:40 UTC, 3 min 5 s ago)

  versions    Docker 26.1.5, containerd 1.7.24, runc 1.1.15, RootlessKit 2.0.2
  supervisor  rootlessd 0.1.0, pid 4711, under systemd (since Mon 2025-11-24 22:05:45 UTC)
  socket      unix:///run/user/1000/docker.sock
  data        /home/u/.local/share/docker (overlay2)
  state       /run/user/1000/dockerd-rootless
  network     slirp4netns, ports by builtin
  cgroups     systemd driver; controllers cpu memory pids
  containers  2 running
  processes   rootlesskit   4712    12.3 MiB
              network       4730     2.8 MiB  slirp4netns
              dockerd      14751    65.0 MiB
                                    80.1 MiB
"
        );
    }

    #[test]
    fn a_degraded_engine_says_why() {
        assert_eq!(
            plain(&samples::degraded()),
            "\
● Docker is running, but degraded (since Mon 2025-11-24 23:02:40 UTC, 3 min 5 s ago)
  ! slirp4netns is being started again. [network-down]

  versions    Docker 26.1.5
  supervisor  rootlessd 0.1.0, pid 4711, under systemd (since Mon 2025-11-24 22:05:45 UTC)
  socket      unix:///run/user/1000/docker.sock
  cgroups     no driver: limits of containers have no effect
  deaths      Mon 2025-11-24 23:04:45 UTC  dockerd: dockerd was killed by SIGKILL
  incidents   Mon 2025-11-24 23:05:40 UTC  network: slirp4netns was killed by SIGKILL
"
        );
    }

    #[test]
    fn a_failed_engine_says_what_to_do_and_shows_the_last_lines() {
        assert_eq!(
            plain(&samples::failed()),
            "\
× Docker has failed (since Mon 2025-11-24 23:02:40 UTC, 3 min 5 s ago)
  ! The user u has no subordinate uids. [subuid-missing]
    what to do: sudo usermod --add-subuids 100000-165535 u

  supervisor  rootlessd 0.1.0, pid 4711, under systemd (since Mon 2025-11-24 22:05:45 UTC)
  socket      unix:///run/user/1000/docker.sock
  deaths      Mon 2025-11-24 23:04:45 UTC  dockerd: dockerd was killed by SIGKILL

  last lines of dockerd:
    level=info msg=\"API listen on docker.sock\"
    a\\u{1b}[2Jb
"
        );
    }

    #[test]
    fn a_listening_engine_tells_what_clients_started() {
        let mut status = samples::listening();
        assert_eq!(
            plain(&status),
            "\
○ Docker starts with its first client (since Mon 2025-11-24 23:02:40 UTC, 3 min 5 s ago)

  supervisor  rootlessd 0.1.0, pid 4711, under systemd (since Mon 2025-11-24 22:05:45 UTC)
  socket      unix:///run/user/1000/docker.sock
  on demand   started 2 times, last Mon 2025-11-24 22:05:45 UTC (1 h ago)
"
        );
        status.demand_starts = 1;
        assert!(plain(&status).contains("on demand   started once, last Mon"));
    }

    #[test]
    fn the_headline_of_every_state() {
        for (status, text) in [
            (samples::stopped(), "○ Docker is stopped (since "),
            (samples::starting(), "● Docker is starting: containerd (since "),
            (samples::stopping(), "● Docker is stopping: containers (since "),
            (samples::backoff(), "● Docker died, and is started again in 4 s (since "),
        ] {
            let page = plain(&status);
            assert!(page.starts_with(text), "{page}");
        }
    }

    #[test]
    fn old_deaths_are_counted_not_shown() {
        let mut status = samples::backoff();
        let death = status.deaths[0].clone();
        status.deaths = vec![death; 7];
        let page = plain(&status);
        assert_eq!(page.matches("SIGKILL").count(), 5);
        assert!(page.ends_with("              and 2 before\n"), "{page}");
    }

    #[test]
    fn colours_change_nothing_but_the_colours() {
        for status in [samples::running(), samples::degraded(), samples::failed()] {
            let coloured = render(&status, &samples::clock(), Palette::COLOUR);
            assert!(coloured.contains("\x1b["));
            let stripped = anstream::adapter::strip_str(&coloured).to_string();
            assert_eq!(stripped, plain(&status));
        }
    }
}
