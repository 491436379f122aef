//! Kernel settings, now and at every boot: sysctl(8), sysctl.d(5).
//!
//! The file is made whole from the ledger's entries. Of several entries about one setting the last
//! one holds; what the setting was before the first of them is kept, whichever is undone first.

use std::fmt;

use rootlessd_api::{Error, ErrorKind, helper::PingRange};
use serde::{Deserialize, Serialize};

use crate::{
    change::Change,
    error::{cannot, not_ours},
    ledger::Entry,
    root::Root,
    user::User,
};

/// The file that sets them at every boot.
pub const FILE: &str = "/etc/sysctl.d/60-rootlessd.conf";
const HEAD: &str = "# Written by rootlessd-helper from its ledger: \"rootlessctl privileges\" shows why, and undoes it.\n";
/// What the kernel takes for every group: the limit of `net/ipv4/ping.c`.
const ALL_GROUPS: (u32, u32) = (0, i32::MAX as u32);
/// What Docker's documentation gives where user namespaces are turned off.
const USER_NAMESPACES: &str = "28633";

/// A setting that the helper may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// The first port that needs no privilege (kernel: `Documentation/networking/ip-sysctl.rst`).
    #[serde(rename = "net.ipv4.ip_unprivileged_port_start")]
    PortStart,
    /// The groups that may send ICMP echo requests (same place).
    #[serde(rename = "net.ipv4.ping_group_range")]
    PingRange,
    /// Whether everybody may make user namespaces: Debian's own.
    #[serde(rename = "kernel.unprivileged_userns_clone")]
    UsernsClone,
    /// How many there may be (kernel: `Documentation/admin-guide/sysctl/user.rst`).
    #[serde(rename = "user.max_user_namespaces")]
    MaxUserNamespaces,
}

impl Key {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PortStart => "net.ipv4.ip_unprivileged_port_start",
            Self::PingRange => "net.ipv4.ping_group_range",
            Self::UsernsClone => "kernel.unprivileged_userns_clone",
            Self::MaxUserNamespaces => "user.max_user_namespaces",
        }
    }

    fn path(self) -> String {
        format!("/proc/sys/{}", self.as_str().replace('.', "/"))
    }

    /// What it is now, with single spaces; `None` where the kernel has no such setting.
    pub fn read(self, root: &Root) -> Result<Option<String>, Error> {
        let text =
            root.read(&self.path()).map_err(|error| cannot("read", self.as_str(), &error))?;
        Ok(text.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")))
    }

    fn write(self, root: &Root, value: &str) -> Result<(), Error> {
        root.set(&self.path(), value).map_err(|error| cannot("set", self.as_str(), &error))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Which.
    pub key: Key,
    /// What it is now.
    pub value: String,
    /// What it was.
    pub before: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, before } = self;
        write!(f, "{key}: {before} → {value}, now and in {FILE}; undone by setting {before} again")
    }
}

/// The first unprivileged port. Raising it takes something from everybody, and is not done.
pub fn plan_port_start(root: &Root, start: u16) -> Result<Option<Change>, Error> {
    let before = Key::PortStart.read(root)?.ok_or_else(|| missing(Key::PortStart))?;
    if number(&before)? <= u32::from(start) {
        return Ok(None);
    }
    let settings = vec![Setting { key: Key::PortStart, value: start.to_string(), before }];
    Ok(Some(Change::SetUnprivilegedPortStart { settings }))
}

/// The groups that may ping: those that could, and the user's or all.
pub fn plan_ping_range(
    root: &Root,
    user: &User,
    range: PingRange,
) -> Result<Option<Change>, Error> {
    let before = Key::PingRange.read(root)?.ok_or_else(|| missing(Key::PingRange))?;
    let (low, high) = before.split_once(' ').ok_or_else(|| strange(&before))?;
    let (low, high) = (number(low)?, number(high)?);
    let (first, last) = match range {
        PingRange::All => ALL_GROUPS,
        // "1 0" is the kernel's word for nobody.
        PingRange::Own if low > high => (user.gid, user.gid),
        PingRange::Own => (low.min(user.gid), high.max(user.gid)),
    };
    if low <= first && last <= high {
        return Ok(None);
    }
    let value = format!("{first} {last}");
    let settings = vec![Setting { key: Key::PingRange, value, before }];
    Ok(Some(Change::SetPingRange { settings }))
}

/// Where user namespaces are turned off, by either of two settings.
pub fn plan_user_namespaces(root: &Root) -> Result<Option<Change>, Error> {
    let off = [(Key::UsernsClone, "1"), (Key::MaxUserNamespaces, USER_NAMESPACES)];
    let mut settings = Vec::new();
    for (key, value) in off {
        if let Some(before) = key.read(root)?.filter(|before| before == "0") {
            settings.push(Setting { key, value: value.into(), before });
        }
    }
    Ok((!settings.is_empty()).then_some(Change::AllowUserNamespaces { settings }))
}

/// The file as the entries want it; `None` for no file.
pub fn render(entries: &[Entry]) -> Option<String> {
    let mut last: Vec<&Setting> = Vec::new();
    for setting in entries.iter().flat_map(|entry| entry.change.settings()) {
        last.retain(|other| other.key != setting.key);
        last.push(setting);
    }
    last.sort_by_key(|setting| setting.key);
    let lines = last.iter().map(|setting| format!("{} = {}\n", setting.key, setting.value));
    (!last.is_empty()).then(|| lines.fold(HEAD.to_owned(), |text, line| text + &line))
}

/// Changes the file from what the entries `before` made of it, and the settings. Both, or neither.
pub fn apply(
    root: &Root,
    settings: &[Setting],
    before: &[Entry],
    after: &[Entry],
) -> Result<(), Error> {
    if !put(root, &[render(before), render(after)], render(after))? {
        return Err(not_ours(FILE));
    }
    for (done, setting) in settings.iter().enumerate() {
        if let Err(error) = setting.key.write(root, &setting.value) {
            let mut failed = Vec::new();
            for setting in &settings[..done] {
                failed.extend(setting.key.write(root, &setting.before).err());
            }
            failed.extend(put(root, &[render(after)], render(before)).err());
            return Err(failed.into_iter().fold(error, |mut error, half| {
                error.message += &format!("; and, on the way back, {}", half.message);
                error
            }));
        }
    }
    Ok(())
}

/// Sets back what a removed entry set, and the file from what the entries `with` it made of it. What
/// somebody else changed meanwhile is left alone, and told.
pub fn undo(
    root: &Root,
    removed: &Entry,
    with: &[Entry],
    without: &mut [Entry],
) -> Result<Vec<String>, Error> {
    let mut notes = Vec::new();
    let position = with.iter().position(|entry| entry.id == removed.id).unwrap_or(with.len());
    for setting in removed.change.settings() {
        // A later entry holds: what was before both is its to set back.
        let later = without[position..].iter_mut().flat_map(|entry| entry.change.settings_mut());
        if let Some(later) = later.into_iter().find(|later| later.key == setting.key) {
            later.before.clone_from(&setting.before);
            continue;
        }
        match setting.key.read(root)? {
            Some(now) if now == setting.value => setting.key.write(root, &setting.before)?,
            Some(now) if now != setting.before => notes.push(format!(
                "{} is {now}, which somebody else set, and is left alone",
                setting.key
            )),
            _ => {}
        }
    }
    if !put(root, &[render(with), render(without)], render(without))? {
        notes.push(format!("{FILE} was edited by somebody else, and is left alone"));
    }
    Ok(notes)
}

/// Where the machine is not as the entry says.
pub fn drift(root: &Root, entry: &Entry, entries: &[Entry]) -> Result<Vec<String>, Error> {
    let mut drift = Vec::new();
    for setting in entry.change.settings() {
        let mut all = entries.iter().flat_map(|entry| entry.change.settings());
        let last = all.rfind(|other| other.key == setting.key);
        if last != Some(setting) {
            continue; // A later one holds.
        }
        let now = setting.key.read(root)?;
        if now.as_ref() != Some(&setting.value) {
            let now = now.unwrap_or_else(|| "gone".into());
            drift.push(format!("{} is {now}, not {}", setting.key, setting.value));
        }
    }
    if !entry.change.settings().is_empty() {
        let text = root.read(FILE).map_err(|error| cannot("read", FILE, &error))?;
        if text != render(entries) {
            drift.push(match text {
                None => format!("{FILE} is gone: the next boot does not set it"),
                Some(_) => format!("{FILE} was edited"),
            });
        }
    }
    Ok(drift)
}

fn put(root: &Root, known: &[Option<String>], wanted: Option<String>) -> Result<bool, Error> {
    root.put(FILE, known, wanted).map_err(|error| cannot("write", FILE, &error))
}

fn number(text: &str) -> Result<u32, Error> {
    text.parse().map_err(|_| strange(text))
}

fn strange(value: &str) -> Error {
    Error::new(ErrorKind::System, format!("the kernel's setting has the strange value {value:?}"))
}

fn missing(key: Key) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this kernel has no setting {key}"))
}
