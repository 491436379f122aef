//! Which package brings a program, by family of distributions.

use std::fs;

use crate::dirs::Dirs;

/// A family of distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu
    Apt,
    /// Fedora, Red Hat
    Dnf,
    /// Arch
    Pacman,
    /// SUSE
    Zypper,
    /// Alpine
    Apk,
    /// Another one
    Other,
}

impl Family {
    /// The family of a machine.
    pub fn of(dirs: &Dirs) -> Self {
        // os-release(5)
        ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(dirs.on_system(path)).ok())
            .map_or(Self::Other, |text| Self::parse(&text))
    }

    /// Reads an os-release(5).
    pub fn parse(os_release: &str) -> Self {
        let field = |name: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let ids = format!("{} {}", field("ID="), field("ID_LIKE="));
        ids.split_ascii_whitespace()
            .find_map(|id| match id {
                "debian" | "ubuntu" => Some(Self::Apt),
                "fedora" | "rhel" | "centos" => Some(Self::Dnf),
                "arch" => Some(Self::Pacman),
                "suse" | "opensuse" | "sles" => Some(Self::Zypper),
                "alpine" => Some(Self::Apk),
                _ => None,
            })
            .unwrap_or(Self::Other)
    }

    /// The command that installs a program.
    pub fn install(self, program: &str) -> String {
        let package = self.package(program);
        match self {
            Self::Apt => format!("sudo apt-get install {package}"),
            Self::Dnf => format!("sudo dnf install {package}"),
            Self::Pacman => format!("sudo pacman -S {package}"),
            Self::Zypper => format!("sudo zypper install {package}"),
            Self::Apk => format!("sudo apk add {package}"),
            Self::Other => format!("install {package} with the package manager of this system"),
        }
    }

    fn package(self, program: &str) -> &str {
        use Family::{Apk, Apt, Dnf, Pacman, Zypper};
        match (program, self) {
            ("dockerd", Apt) => "docker.io",
            ("dockerd", Dnf) => "moby-engine",
            ("dockerd", _) => "docker",
            // Not a package of Fedora; Docker's own repository has it.
            ("rootlesskit", Dnf) => "docker-ce-rootless-extras",
            ("newuidmap" | "newgidmap", Apt) => "uidmap",
            ("newuidmap" | "newgidmap", Dnf) => "shadow-utils",
            ("newuidmap" | "newgidmap", Pacman | Zypper) => "shadow",
            ("newuidmap" | "newgidmap", Apk) => "shadow-subids",
            ("newuidmap" | "newgidmap", _) => "the shadow utilities (newuidmap)",
            ("pasta", _) => "passt",
            ("ip", Dnf) => "iproute",
            ("ip", _) => "iproute2",
            ("session bus", Apt) => "dbus-user-session",
            ("session bus", _) => "dbus",
            ("nsenter", _) => "util-linux",
            (program, _) => program,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_have_their_families() {
        for (text, family, uidmap) in [
            ("ID=debian\n", Family::Apt, "sudo apt-get install uidmap"),
            (
                "NAME=x\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                Family::Apt,
                "sudo apt-get install uidmap",
            ),
            ("ID=fedora\n", Family::Dnf, "sudo dnf install shadow-utils"),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                Family::Dnf,
                "sudo dnf install shadow-utils",
            ),
            ("ID=arch\n", Family::Pacman, "sudo pacman -S shadow"),
            (
                "ID='opensuse-tumbleweed'\nID_LIKE='opensuse suse'\n",
                Family::Zypper,
                "sudo zypper install shadow",
            ),
            ("ID=alpine\n", Family::Apk, "sudo apk add shadow-subids"),
        ] {
            assert_eq!(Family::parse(text), family, "{text}");
            assert_eq!(family.install("newuidmap"), uidmap);
        }
        assert_eq!(Family::parse("ID=void"), Family::Other);
        assert!(Family::Other.install("slirp4netns").starts_with("install slirp4netns with"));
    }
}
