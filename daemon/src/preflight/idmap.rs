//! newuidmap(1) and newgidmap(1): whether they may write the maps of a user namespace.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rootlessd_api::Reason;

use super::{
    mounts::{Mount, mount_of},
    packages::Family,
};
use crate::{dirs::Dirs, reasons::Code};

/// capability.h
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// Checks both programs.
pub fn check(dirs: &Dirs, newuidmap: &Path, newgidmap: &Path, family: Family) -> Vec<Reason> {
    if has_no_new_privs(dirs) {
        return vec![Code::NewidmapUnprivileged.reason_with_remedy(
            "rootlessd was started with no_new_privs, under which newuidmap has no privilege",
            "take NoNewPrivileges= and what implies it out of the unit (systemctl --user cat \
             rootlessd.service), or no-new-privileges off the container",
        )];
    }
    // Whoever owns `/`: root, or what the machine shows as root.
    let root = fs::metadata(&dirs.system).map_or(0, |metadata| metadata.uid());
    [(newuidmap, CAP_SETUID), (newgidmap, CAP_SETGID)]
        .into_iter()
        .filter_map(|(program, capability)| check_one(dirs, program, capability, root, family))
        .collect()
}

fn check_one(
    dirs: &Dirs,
    program: &Path,
    capability: u32,
    root: u32,
    family: Family,
) -> Option<Reason> {
    let shown = program.display();
    let setuid = fs::metadata(program)
        .is_ok_and(|metadata| metadata.mode() & 0o4000 != 0 && metadata.uid() == root);
    if !setuid && !has_file_capability(program, capability) {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        return Some(Code::NewidmapUnprivileged.reason_with_remedy(
            format!("{shown} is neither setuid root nor has it the capability to map ids"),
            match family {
                Family::Apt => "sudo apt-get install --reinstall uidmap".to_owned(),
                _ => format!("sudo setcap cap_set{}id=ep {shown}", &name[3..4]),
            },
        ));
    }
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let mount = mount_of(dirs, &real).filter(Mount::is_nosuid)?;
    let point = mount.point.display();
    Some(Code::NewidmapUnprivileged.reason_with_remedy(
        format!("{shown} has no privilege: {point} is mounted nosuid"),
        format!("sudo mount -o remount,suid {point}"),
    ))
}

fn has_file_capability(program: &Path, capability: u32) -> bool {
    let mut value = [0; 32];
    match rustix::fs::getxattr(program, "security.capability", &mut value) {
        Ok(length) => permits(&value[..length], capability),
        Err(_) => false,
    }
}

/// `struct vfs_cap_data` of linux/capability.h: a revision with the bit for "effective", then the
/// lower 32 permitted capabilities, little-endian.
fn permits(value: &[u8], capability: u32) -> bool {
    let word = |at: usize| {
        let bytes = value.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    };
    match (word(0), word(4)) {
        (Some(magic), Some(permitted)) => magic & 1 != 0 && permitted & (1 << capability) != 0,
        _ => false,
    }
}

/// proc_pid_status(5)
fn has_no_new_privs(dirs: &Dirs) -> bool {
    let status = fs::read_to_string(dirs.on_system("/proc/self/status")).unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"));
    field.is_some_and(|value| value.trim() == "1")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::preflight::testing::Machine;

    #[test]
    fn file_capabilities_are_read() {
        // As setcap(8) writes them: revision 2, and revision 3 with a root id.
        let v2 = |flags: u8, permitted: u8| [&[flags, 0, 0, 2, permitted][..], &[0; 15]].concat();
        let v3 = [&[1, 0, 0, 3, 0x80][..], &[0; 19]].concat();
        for (value, setuid, setgid) in [
            (v2(1, 0x80), true, false),
            (v2(1, 0x40), false, true),
            (v2(1, 0xc0), true, true),
            (v2(0, 0xc0), false, false),
            (v3, true, false),
            (vec![], false, false),
            (vec![1, 0, 0, 2], false, false),
        ] {
            assert_eq!(permits(&value, CAP_SETUID), setuid, "{value:?}");
            assert_eq!(permits(&value, CAP_SETGID), setgid, "{value:?}");
        }
    }

    #[test]
    fn without_privilege_the_programs_are_of_no_use() {
        let machine = Machine::bare();
        let (uid, gid) = (machine.program("/newuidmap", ""), machine.program("/newgidmap", ""));
        let codes = || {
            let reasons = check(&machine.dirs(), &uid, &gid, Family::Other);
            reasons.into_iter().map(|reason| reason.remedy).collect::<Vec<_>>()
        };
        let found = codes();
        assert_eq!(found.len(), 2);
        let remedy = found[1].as_deref().expect("a remedy");
        assert!(remedy.starts_with("sudo setcap cap_setgid=ep /"), "{remedy}");

        for program in [&uid, &gid] {
            fs::set_permissions(program, fs::Permissions::from_mode(0o4755)).expect("chmod");
        }
        // The directory for temporary files may itself be mounted nosuid.
        let found = codes();
        let nosuid =
            |remedy: &Option<String>| remedy.as_ref().is_some_and(|r| r.contains("remount"));
        assert!(found.iter().all(nosuid), "{found:?}");

        machine.write("/proc/self/status", "Name:\tx\nNoNewPrivs:\t1\n");
        assert_eq!(codes().len(), 1);
    }
}
