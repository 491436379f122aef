//! What another supervision of the engine was told: the unit that Docker's set-up tool writes, and
//! drop-ins of `docker.service`. It has no effect on rootlessd, and that is said.

use std::path::{Path, PathBuf};

use rootlessd_api::{Reason, Setting};

use super::{ENVIRONMENT, file, keys};
use crate::{
    dirs::{Dirs, Environment},
    reasons::Code,
};

/// Looks for directives that the configuration does not say yet.
pub fn look(dirs: &Dirs, environment: &Environment, settings: &[Setting]) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let config = dirs.config_home.join("rootlessd/config.toml");
    let unit = dirs.config_home.join("systemd/user/docker.service");
    let text = file::read_small(&unit).unwrap_or_default();
    let is_stock =
        directives(&text).any(|d| d.name == "ExecStart" && d.value.contains("dockerd-rootless.sh"));
    if is_stock {
        let shown = unit.display();
        reasons.push(Code::StockUnitPresent.reason_with_remedy(
            format!(
                "{shown} was written by Docker's set-up tool: it hides rootlessd's docker.service, \
                 and would start a second engine"
            ),
            format!(
                "systemctl --user disable --now docker.service; mv {shown} {shown}.old && \
                 systemctl --user daemon-reload"
            ),
        ));
        let lines = Lines { unit: true, environment, settings }.of(&text);
        reasons.extend(ignored(&unit, &lines, &config));
    }
    for drop_in in drop_ins(dirs) {
        let text = file::read_small(&drop_in).unwrap_or_default();
        let lines = Lines { unit: false, environment, settings }.of(&text);
        reasons.extend(ignored(&drop_in, &lines, &config));
    }
    reasons
}

/// systemd.unit(5): the places of a user's drop-ins that people, not packages, write to.
fn drop_ins(dirs: &Dirs) -> Vec<PathBuf> {
    [&dirs.on_system("/etc"), &dirs.runtime, &dirs.config_home]
        .into_iter()
        .map(|base| base.join("systemd/user/docker.service.d"))
        .flat_map(|directory| file::files_with(&directory, "conf").unwrap_or_default())
        .collect()
}

fn ignored(path: &Path, lines: &[Line], config: &Path) -> Option<Reason> {
    let each = |line: &Line| {
        let Line { number, directive, instead } = line;
        let instead = match instead {
            Some(instead) => format!("{instead} says the same"),
            None => "nothing says the same".into(),
        };
        format!("line {number} ({directive}; {instead})")
    };
    let list: Vec<_> = lines.iter().map(each).collect();
    (!list.is_empty()).then(|| {
        Code::DropInsIgnored.reason_with_remedy(
            format!("{} has no effect on rootlessd: {}", path.display(), list.join(", ")),
            format!("say it in {}, then rootlessctl reload", config.display()),
        )
    })
}

/// A line of a unit that has no effect. Its value is not shown: it may be a password.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    number: usize,
    directive: String,
    /// What says the same to rootlessd.
    instead: Option<String>,
}

struct Lines<'a> {
    /// Whether it is the tool's unit, most of which everybody has.
    unit: bool,
    environment: &'a Environment,
    settings: &'a [Setting],
}

impl Lines<'_> {
    fn of(&self, text: &str) -> Vec<Line> {
        directives(text)
            .filter(|directive| directive.section == "Service")
            .filter(|directive| !(self.unit && is_stock(directive)))
            .flat_map(|directive| self.of_directive(&directive))
            .collect()
    }

    fn of_directive(&self, directive: &Directive) -> Vec<Line> {
        let number = directive.line;
        let line = |shown: &str, instead: Option<&str>| {
            let instead = instead.map(str::to_owned);
            Line { number, directive: shown.to_owned(), instead }
        };
        match directive.name.as_str() {
            // Resets the list.
            "Environment" | "ExecStart" if directive.value.is_empty() => Vec::new(),
            "Environment" => words(&directive.value)
                .iter()
                .filter_map(|word| word.split_once('='))
                .filter_map(|(name, value)| {
                    let key = self.key_of_variable(name, value)?;
                    Some(line(&format!("Environment={name}"), key.as_deref()))
                })
                .collect(),
            "ExecStart" => {
                let words = words(&directive.value);
                let flags = words.iter().skip_while(|w| !w.ends_with("dockerd-rootless.sh"));
                let has_flags = flags.skip(1).any(|word| !word.starts_with('$'));
                match has_flags && !self.says("dockerd.flags") {
                    true => vec![line("ExecStart", Some("dockerd.flags"))],
                    false => Vec::new(),
                }
            }
            name => match instead_of(name) {
                Some(key) if keys::find(key).is_some() && self.says(key) => Vec::new(),
                instead => vec![line(name, instead)],
            },
        }
    }

    /// The key of a variable, if there is one; outer none: it need not be told.
    fn key_of_variable(&self, name: &str, value: &str) -> Option<Option<String>> {
        if name == "PATH" && !self.path_has_more(value) {
            return None;
        }
        let key = keys::KEYS
            .iter()
            .find(|key| key.variable == Some(name) || key.ambient.contains(&name))
            .map(|key| key.name.to_owned())
            .or_else(|| (!keys::is_ours(name)).then(|| format!("{ENVIRONMENT}.{name}")));
        match &key {
            Some(key) if self.says(key) => None,
            _ => Some(key),
        }
    }

    /// Whether a search path has directories that the engine's has not.
    fn path_has_more(&self, path: &str) -> bool {
        let known = self.environment.get("PATH").unwrap_or_default();
        let known: Vec<_> = known.split(':').chain(["/sbin", "/usr/sbin"]).collect();
        path.split(':').any(|entry| !known.contains(&entry))
    }

    fn says(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.key == key && setting.source != "default")
    }
}

/// What says to rootlessd what a directive says to systemd.
fn instead_of(directive: &str) -> Option<&'static str> {
    const TABLE: &[(&str, &str)] = &[
        ("EnvironmentFile", "the table environment"),
        ("RestartSec", "engine.restart.delay"),
        ("Restart", "engine.restart.limit"),
        ("StartLimitBurst", "engine.restart.limit"),
        ("StartLimitInterval", "engine.restart.window"),
        ("TimeoutStartSec", "engine.start_timeout"),
        ("TimeoutStopSec", "engine.stop_timeout"),
        ("TimeoutSec", "engine.start_timeout"),
        ("CPU", "systemctl --user edit rootlessd.slice"),
        ("Memory", "systemctl --user edit rootlessd.slice"),
        ("IO", "systemctl --user edit rootlessd.slice"),
        ("Tasks", "systemctl --user edit rootlessd.slice"),
        ("AllowedCPUs", "systemctl --user edit rootlessd.slice"),
        ("Limit", "systemctl --user edit rootlessd.service"),
        ("OOMScoreAdjust", "systemctl --user edit rootlessd.service"),
        ("Nice", "systemctl --user edit rootlessd.service"),
    ];
    TABLE.iter().find(|(begin, _)| directive.starts_with(begin)).map(|(_, instead)| *instead)
}

/// Whether the set-up tool writes this line by itself (moby's
/// `contrib/dockerd-rootless-setuptool.sh`, 20.10 to 29.7).
fn is_stock(directive: &Directive) -> bool {
    const STOCK: &[(&str, &str)] = &[
        ("ExecReload", "/bin/kill -s HUP $MAINPID"),
        ("TimeoutSec", "0"),
        ("RestartSec", "2"),
        ("Restart", "always"),
        ("StartLimitBurst", "3"),
        ("StartLimitInterval", "60s"),
        ("LimitNOFILE", "infinity"),
        ("LimitNPROC", "infinity"),
        ("LimitCORE", "infinity"),
        ("TasksMax", "infinity"),
        ("Delegate", "yes"),
        ("Type", "notify"),
        ("NotifyAccess", "all"),
        ("KillMode", "mixed"),
        ("KillMode", "control-group"),
    ];
    STOCK.contains(&(&directive.name, &directive.value))
}

/// A directive of a unit.
#[derive(Clone, Debug, PartialEq)]
struct Directive {
    section: String,
    name: String,
    value: String,
    line: usize,
}

/// systemd.syntax(7)
fn directives(text: &str) -> impl Iterator<Item = Directive> {
    let mut section = String::new();
    let mut lines = text.lines().zip(1..);
    std::iter::from_fn(move || {
        loop {
            let (first, line) = lines.next()?;
            let mut whole = first.trim().to_owned();
            if whole.is_empty() || whole.starts_with(['#', ';']) {
                continue;
            }
            while let Some(head) = whole.strip_suffix('\\') {
                let more = lines.next().map_or("", |(more, _)| more.trim());
                whole = format!("{head} {more}");
                if more.is_empty() {
                    break;
                }
            }
            if let Some(name) = whole.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((name, value)) = whole.split_once('=') {
                let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
                return Some(Directive { section: section.clone(), name, value, line });
            }
        }
    })
}

/// The words of a value, with the quotes taken away.
fn words(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    for c in value.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => (quote, begun) = (Some(c), true),
            (None, _) if c.is_ascii_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOCK: &str = "[Unit]\nDescription=Docker Application Container Engine (Rootless)\n\
        [Service]\nEnvironment=PATH=/usr/bin:/sbin:/usr/sbin:/usr/bin\n\
        ExecStart=/usr/bin/dockerd-rootless.sh $DOCKERD_ROOTLESS_SH_FLAGS\n\
        ExecReload=/bin/kill -s HUP $MAINPID\nTimeoutSec=0\nRestart=always\nKillMode=mixed\n\
        [Install]\nWantedBy=default.target\n";

    fn told(unit: bool, text: &str, said: &[&str]) -> Vec<(usize, String, Option<String>)> {
        let environment = Environment::from_iter([("PATH", "/usr/local/bin:/usr/bin")]);
        let settings: Vec<_> = said
            .iter()
            .map(|key| Setting {
                key: key.to_string(),
                value: String::new(),
                source: "/etc/rootlessd/config.toml:1".into(),
            })
            .collect();
        let lines = Lines { unit, environment: &environment, settings: &settings }.of(text);
        lines.into_iter().map(|line| (line.number, line.directive, line.instead)).collect()
    }

    #[test]
    fn what_the_tool_writes_for_everybody_is_not_told() {
        assert_eq!(told(true, STOCK, &[]), []);
        let other_path = STOCK.replace("PATH=/usr/bin", "PATH=/home/alice/bin");
        let line = (4, "Environment=PATH".into(), Some("environment.PATH".into()));
        assert_eq!(told(true, &other_path, &[]), [line]);
    }

    #[test]
    fn each_directive_has_its_key() {
        let text = "[Service]\n\
            Environment=\"HTTP_PROXY=http://user:secret@proxy:3128\" NO_PROXY=localhost\n\
            # Environment=A=b\n\
            Environment=DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=1500\n\
            Environment='GODEBUG=a b' LD_PRELOAD=/x\n\
            ExecStart=\n\
            ExecStart=/usr/bin/dockerd-rootless.sh \\\n  --debug\n\
            MemoryMax=4G\nLimitNOFILE=1024\nPrivateTmp=yes\n";
        let expected = [
            (2, "Environment=HTTP_PROXY", Some("proxy.http")),
            (2, "Environment=NO_PROXY", Some("proxy.no")),
            (4, "Environment=DOCKERD_ROOTLESS_ROOTLESSKIT_MTU", Some("engine.network.mtu")),
            (5, "Environment=GODEBUG", Some("environment.GODEBUG")),
            (5, "Environment=LD_PRELOAD", None),
            (7, "ExecStart", Some("dockerd.flags")),
            (9, "MemoryMax", Some("systemctl --user edit rootlessd.slice")),
            (10, "LimitNOFILE", Some("systemctl --user edit rootlessd.service")),
            (11, "PrivateTmp", None),
        ]
        .map(|(line, name, key)| (line, name.to_owned(), key.map(str::to_owned)));
        assert_eq!(told(false, text, &[]), expected);
        assert_eq!(told(false, text, &["proxy.http", "dockerd.flags"]).len(), expected.len() - 2);
    }

    #[test]
    fn words_are_split_as_systemd_does() {
        assert_eq!(words(r#"a "b c"  'd "e' f"#), ["a", "b c", "d \"e", "f"]);
        assert_eq!(words(r#"A="b c" "" "#), ["A=b c", ""]);
        assert_eq!(words(""), [""; 0]);
    }
}
