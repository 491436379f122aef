//! Grants of single ports, in the kernel that is there.

#![allow(clippy::unwrap_used, missing_docs)]

mod ground;

use std::{
    fs::{self, File, Permissions},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::Path,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rootlessd_api::Port;
use rootlessd_helper::bpf::{Error, Family, Insn, attach_ports, detach, load};

use crate::ground::{Ground, bind_all, binder, ports, results};

/// Port 80 of TCP, where a test has no need for more.
const HTTP: [(&str, &str, u16); 2] = [("tcp", "0.0.0.0", 80), ("tcp", "::", 80)];

/// What a command is put behind that is to have no capabilities but these.
const WITH_TWO_CAPABILITIES: [&str; 3] = ["setpriv", "--bounding-set", "-all,+bpf,+net_admin"];

#[test]
fn exactly_these_ports_in_this_cgroup() {
    let ground = Ground::new("exact");
    let (inside, outside) = (ground.cgroup("inside"), ground.cgroup("outside"));
    let nested = ground.cgroup("inside/a/b");
    let granted = ports("80/tcp 443/tcp 443/udp 1/tcp 1023/udp");
    ground.attach(1000, &inside, &granted).unwrap();
    let mut asked = vec![];
    for protocol in ["tcp", "udp", "mptcp"] {
        for address in ["0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:127.0.0.1"] {
            // 20480 is 80 in the other order of bytes.
            for port in [1, 79, 80, 81, 443, 1023, 1024, 20480] {
                asked.push((protocol, address, port));
            }
        }
    }
    for (cgroup, has_them) in [(&inside, true), (&nested, true), (&outside, false)] {
        for (what, result) in asked.iter().zip(bind_all(cgroup, &asked)) {
            // What listens by multipath TCP, as programs in Go do, is bound as TCP.
            let protocol = what.0.trim_start_matches("mp");
            let listed = granted.contains(&Port::new(protocol, what.2).unwrap());
            let wanted = if what.2 >= 1024 || listed && has_them { "ok" } else { "EACCES" };
            // Whether there is multipath TCP at all is the kernel's and the administrator's affair.
            let absent =
                what.0 == "mptcp" && ["EPROTONOSUPPORT", "ENOPROTOOPT"].contains(&&*result);
            assert!(result == wanted || absent, "{what:?} in {cgroup:?}: {result}, not {wanted}");
        }
    }
}

#[test]
fn most_ports() {
    let ground = Ground::new("most");
    let inside = ground.cgroup("inside");
    let all = (900..964).map(|number| Port::new("tcp", number).unwrap()).collect();
    ground.attach(1000, &inside, &all).unwrap();
    assert!(ground.attached(1000, &inside, &all));
    let asked: Vec<_> = (899..=964).map(|number| ("tcp", "::", number)).collect();
    let mut wanted = ["ok"; 66];
    (wanted[0], wanted[65]) = ("EACCES", "EACCES");
    assert_eq!(bind_all(&inside, &asked), wanted);
}

#[test]
fn a_socket_belongs_where_it_was_made() {
    let ground = Ground::new("made");
    let (inside, outside) = (ground.cgroup("inside"), ground.cgroup("outside"));
    ground.attach(1000, &inside, &ports("80")).unwrap();
    let table = [([&inside, &outside], ["ok"; 2]), ([&outside, &inside], ["EACCES"; 2])];
    for ([made, bound], wanted) in table {
        assert_eq!(results(binder(made, bound, 1, &HTTP)), wanted, "{made:?} {bound:?}");
    }
}

#[test]
fn are_replaced_and_taken_back_at_once() {
    let ground = Ground::new("replaced");
    let (inside, other) = (ground.cgroup("inside"), ground.cgroup("other"));
    let asked = [("tcp", "0.0.0.0", 80), ("tcp", "::", 81), ("udp", "::1", 80)];
    let steps = [
        (&inside, "80", ["ok", "EACCES", "EACCES"]),
        (&inside, "81 80/udp", ["EACCES", "ok", "ok"]),
        (&inside, "80 81 80/udp", ["ok", "ok", "ok"]),
        (&inside, "", ["EACCES", "EACCES", "EACCES"]),
        (&inside, "81", ["EACCES", "ok", "EACCES"]),
        (&other, "81", ["EACCES", "EACCES", "EACCES"]),
    ];
    // Each twice: to grant what is granted changes nothing.
    let twice = steps.into_iter().flat_map(|step| [step, step]);
    for (number, (cgroup, granted, wanted)) in twice.enumerate() {
        ground.attach(1000, cgroup, &ports(granted)).unwrap();
        // What somebody else keeps of it is to have no effect either.
        for name in ["inet4", "inet6"].into_iter().filter(|_| !granted.is_empty()) {
            let kept = ground.ours().with_file_name(format!("{name}-{number}"));
            fs::hard_link(ground.ours().join("1000").join(name), kept).unwrap();
        }
        assert_eq!(bind_all(&inside, &asked), wanted, "{granted:?} in {cgroup:?}");
        assert!(ground.attached(1000, cgroup, &ports(granted)));
    }
    detach(&ground.ours(), 1000).unwrap();
    detach(&ground.ours(), 1000).unwrap();
    assert_eq!(bind_all(&other, &asked), ["EACCES"; 3]);
    assert_eq!(fs::read_dir(ground.ours()).unwrap().count(), 0);
    assert_eq!(fs::metadata(ground.ours()).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn there_is_no_gap_while_they_are_replaced() {
    let ground = Ground::new("gap");
    let inside = ground.cgroup("inside");
    let sets = [ports("80"), ports("80 81"), ports("1 80 443/udp")];
    ground.attach(1000, &inside, &sets[0]).unwrap();
    let mut child = binder(&inside, &inside, 20_000, &HTTP);
    let mut count = 0;
    while child.try_wait().unwrap().is_none() {
        count += 1;
        ground.attach(1000, &inside, &sets[count % sets.len()]).unwrap();
    }
    assert_eq!(results(child), ["ok"; 2]);
    assert!(count > 1, "replaced only {count} times");
}

#[test]
fn users_do_not_disturb_each_other() {
    let ground = Ground::new("users");
    let (upper, lower) = (ground.cgroup("upper"), ground.cgroup("upper/lower"));
    let asked = [("tcp", "::", 80), ("tcp", "::", 81)];
    let check = |in_upper: [&str; 2], in_lower: [&str; 2]| {
        assert_eq!([bind_all(&upper, &asked), bind_all(&lower, &asked)], [in_upper, in_lower]);
    };
    ground.attach(1000, &upper, &ports("80")).unwrap();
    check(["ok", "EACCES"], ["ok", "EACCES"]);
    ground.attach(1001, &lower, &ports("81")).unwrap();
    check(["ok", "EACCES"], ["ok", "ok"]);
    detach(&ground.ours(), 1000).unwrap();
    check(["EACCES", "EACCES"], ["EACCES", "ok"]);
    assert!(ground.attached(1001, &lower, &ports("81")));
    ground.attach(1000, &lower, &ports("81")).unwrap();
    detach(&ground.ours(), 1001).unwrap();
    check(["EACCES", "EACCES"], ["EACCES", "ok"]);
}

#[test]
fn a_failure_leaves_what_was() {
    let ground = Ground::new("failure");
    let (inside, gone) = (ground.cgroup("inside"), ground.cgroup("gone"));
    let (old, new) = (ports("80"), ports("81"));
    ground.attach(1000, &inside, &old).unwrap();
    let unchanged = || {
        let asked = [("tcp", "0.0.0.0", 80), ("tcp", "::", 80), ("tcp", "0.0.0.0", 81)];
        assert_eq!(bind_all(&inside, &asked), ["ok", "ok", "EACCES"]);
        assert!(ground.attached(1000, &inside, &old));
    };
    let fails = |cgroup: &File, wanted: &str| {
        let error = attach_ports(&ground.ours(), 1000, cgroup.as_fd(), &new).unwrap_err();
        assert!(matches!(error, Error::Failed { .. }), "{error:?}");
        assert!(error.to_string().contains(wanted), "{error}");
        unchanged();
    };
    let (cgroup, held) = (File::open(&inside).unwrap(), File::open(&gone).unwrap());
    fs::remove_dir(&gone).unwrap();
    fails(&held, "cannot attach a program to the cgroup: ");

    let directory = ground.ours().join("1000");
    fs::set_permissions(&directory, Permissions::from_mode(0o500)).unwrap();
    let result = ground.attach_elsewhere(&inside, "81", &WITH_TWO_CAPABILITIES);
    assert!(result.contains("new-inet4: Permission denied"), "{result}");
    unchanged();
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();

    // What is mounted on cannot be replaced; by then, the first of the two has been.
    let second = directory.join("inet6");
    mount(Some(&second), &second, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    fails(&cgroup, "inet6: Device or resource busy");
    umount2(&second, MntFlags::MNT_DETACH).unwrap();

    ground.attach(1000, &inside, &new).unwrap();
    assert!(ground.attached(1000, &inside, &new));
}

#[test]
fn outlive_who_granted_them() {
    let ground = Ground::new("outlive");
    let inside = ground.cgroup("inside");
    assert_eq!(ground.attach_elsewhere(&inside, "80/tcp", &[]), "ok");
    assert!(ground.attached(1000, &inside, &ports("80")));
    assert_eq!(bind_all(&inside, &HTTP), ["ok"; 2]);
    assert_eq!(ground.attach_elsewhere(&inside, "", &[]), "ok");
    assert_eq!(bind_all(&inside, &HTTP), ["EACCES"; 2]);
}

#[test]
fn it_is_told_whether_all_is_as_it_should_be() {
    let ground = Ground::new("drift");
    let (inside, other) = (ground.cgroup("inside"), ground.cgroup("other"));
    let wanted = ports("80/tcp 80/udp");
    let pin = |name: &str| ground.ours().join("1000").join(name);
    let again = |cgroup| {
        assert!(!ground.attached(1000, cgroup, &wanted));
        ground.attach(1000, cgroup, &wanted).unwrap();
        assert!(ground.attached(1000, cgroup, &wanted));
    };
    assert!(ground.attached(1000, &inside, &ports("")));
    again(&inside);
    for (uid, cgroup, others) in [
        (1000, &inside, ""),
        (1000, &inside, "80/tcp"),
        (1000, &inside, "80/tcp 81/udp"),
        (1000, &inside, "80/tcp 80/udp 81/tcp"),
        (1000, &other, "80/tcp 80/udp"),
        (1001, &inside, "80/tcp 80/udp"),
    ] {
        assert!(!ground.attached(uid, cgroup, &ports(others)), "{uid} {cgroup:?} {others:?}");
    }
    // One is missing; the other is there twice; somebody was killed in the midst.
    fs::rename(pin("inet6"), ground.ours().join("away")).unwrap();
    assert!(!ground.attached(1000, &inside, &wanted));
    fs::hard_link(pin("inet4"), pin("inet6")).unwrap();
    again(&inside);
    fs::rename(ground.ours().join("away"), pin("new-inet6")).unwrap();
    again(&inside);
    fs::rename(pin("inet4"), pin("new-inet4")).unwrap();
    fs::rename(pin("inet6"), pin("new-inet6")).unwrap();
    assert_eq!(bind_all(&inside, &HTTP), ["ok"; 2]);
    detach(&ground.ours(), 1000).unwrap();
    assert_eq!(bind_all(&inside, &HTTP), ["EACCES"; 2]);
    // The cgroup went, and came again by the same name: the next scope of the same unit.
    again(&inside);
    fs::remove_dir(&inside).unwrap();
    again(&ground.cgroup("inside"));
    fs::remove_dir(&inside).unwrap();
    detach(&ground.ours(), 1000).unwrap();
}

#[test]
fn what_the_kernel_refuses_is_told() {
    let ground = Ground::new("refused");
    let table: [(&[Insn], &str); 3] = [
        (&[Insn::exit()], "the verifier refuses the program: R0 !read_ok"),
        (&[Insn::set(0, 4), Insn::exit()], "R0 has "),
        (&[Insn::set(0, 1)], "the verifier refuses the program: last insn is not an exit or jmp"),
    ];
    for (program, wanted) in table {
        for family in Family::ALL {
            let error = load(program, family).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
    let unsupported = |bpffs: &Path, cgroup: &Path, wanted: &str| {
        let cgroup = File::open(cgroup).unwrap();
        let error = attach_ports(bpffs, 1000, cgroup.as_fd(), &ports("80")).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(why) if why.contains(wanted)), "{error}");
    };
    unsupported(Path::new("/proc/none/rootlessd"), &ground.cgroup("a"), "no bpf file system at");
    unsupported(&ground.ours(), Path::new("/proc"), "cgroups of version 2");
}

/// What the helper's unit has to leave it for this: nothing for the cgroup, though it is the user's.
#[test]
fn takes_two_capabilities() {
    let ground = Ground::new("capabilities");
    let inside = ground.cgroup("inside");
    chown(&inside, Some(4242), Some(4242)).unwrap();
    let result = ground.attach_elsewhere(&inside, "80", &WITH_TWO_CAPABILITIES);
    assert_eq!(result, "ok");
    for set in ["-all,+net_admin", "-all,+bpf", "-all"] {
        let result = ground.attach_elsewhere(&inside, "81", &["setpriv", "--bounding-set", set]);
        let wanted = "unsupported: this machine cannot grant single ports: bpf(2) may not load";
        assert!(result.starts_with(wanted), "{set}: {result}");
    }
    let result = ground.attach_elsewhere(&inside, "", &["setpriv", "--bounding-set", "-all,+bpf"]);
    assert_eq!(result, "ok");
}
