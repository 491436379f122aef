//! Several users of one machine: what one was granted is nothing to the others; and subordinate ids,
//! which everybody has of their own.

use std::collections::BTreeMap;

use rootlessd_tests::{
    bed::IMAGE,
    grants::{Caller, Other, Outcome, listed},
    machine::{Machine, on_both, word},
};

const PAGE: &str = "hello from a container";
/// No user of the real machine has it, as they share what the kernel counts for a uid.
const OTHER: u32 = 4243;
/// So many users ask at the same time, from this uid on.
const CALLERS: (u32, u32) = (100, 4300);
const COUNT: u64 = 65536;

#[test]
fn what_one_user_was_granted_is_nothing_to_another() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.load();
        let other = Other::new(&machine, OTHER);
        other.run(&["systemctl", "--user", "enable", "--now", "rootlessd"]).ok();
        other.run(&["rootlessctl", "start"]).ok();
        other.run(&["docker", "load", "-qi", IMAGE]).ok();
        let nobody = [("grant-ports", "no"), ("revoke-others", "no"), ("list-all-grants", "no")];

        machine.decide(&[("grant-ports", "yes")]);
        machine.grant("GrantPorts", &["a(sq)", "1", "tcp", "80"]);
        let own = word(&machine.grants()[0]["id"]["data"]);
        machine.decide(&nobody);
        assert!(other.refused("80:80").contains("rootlessctl ports allow 80/tcp"));
        assert_eq!(machine.reasons(), []);
        machine.publish("web", &["80:80"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1/"), PAGE);

        // Not to be seen, and not to be undone, by its name either.
        assert_eq!(other.grants().len(), 0);
        let cases = [("ListAllGrants", &[][..]), ("Revoke", &["s", &own])];
        for (method, arguments) in cases {
            let refusal = other.call(method, arguments).fails();
            assert!(refusal.contains("Access denied"), "{method}: {refusal}");
        }
        let ledger = "/var/lib/rootlessd/ledger.json";
        for command in [&["cat", ledger][..], &["ls", "/sys/fs/bpf/rootlessd"]] {
            assert!(other.run(command).fails().contains("Permission denied"));
        }
        let attached = other.call("AttachGrants", &[]).ok();
        assert_eq!(attached, r#"{"type":"a(sq)","data":[[]]}"#);
        assert_eq!(machine.pinned(), "./4242 ./4242/inet4 ./4242/inet6");
        assert_eq!(machine.grants().len(), 1);

        // Each of them one, both at once; in the other's place neither.
        machine.decide(&[("grant-ports", "yes")]);
        other.grant("GrantPorts", &["a(sq)", "1", "tcp", "81"]);
        machine.decide(&nobody);
        other.publish("web", &["81:80"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1/"), PAGE);
        assert_eq!(machine.fetch("http://127.0.0.1:81/"), PAGE);
        other.remove("web");
        assert!(machine.refused("81:80").contains("rootlessctl ports allow 81/tcp"));
        machine.remove("web");
        assert!(other.refused("80:80").contains("rootlessctl ports allow 80/tcp"));
        let both = "./4242 ./4242/inet4 ./4242/inet6 ./4243 ./4243/inet4 ./4243/inet6";
        assert_eq!(machine.pinned(), both);

        // Who gives back, gives back one's own.
        machine.grant("Revoke", &["s", &own]);
        assert_eq!(machine.pinned(), "./4243 ./4243/inet4 ./4243/inet6");
        other.publish("web", &["81:80"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1:81/"), PAGE);

        // Whom an administrator lets do so may.
        machine.decide(&[("list-all-grants", "yes"), ("revoke-others", "yes")]);
        let all = listed(&machine.call("ListAllGrants", &[]).ok());
        let of: Vec<_> = all.iter().map(|grant| word(&grant["user"]["data"])).collect();
        assert_eq!(of, ["other"]);
        machine.grant("Revoke", &["s", &word(&all[0]["id"]["data"])]);
        assert_eq!((other.grants().len(), machine.pinned()), (0, String::new()));
    });
}

#[test]
fn a_user_without_subordinate_ids_is_given_some() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        machine.root_sh("sed -i /^tester:/d /etc/subuid /etc/subgid").ok();
        let files = || {
            machine
                .root_sh("cd /etc && stat -c '%n %a %U %G' subuid subgid; grep . subuid subgid; :")
                .ok()
        };
        let before = files();
        assert!(!before.contains("tester"));
        machine.user(["systemctl", "--user", "enable", "--now", "rootlessd"]).ok();
        machine.try_ctl(["start"]).fails();
        let reasons: Vec<_> = machine.reasons().into_iter().map(|(code, _)| code).collect();
        assert!(reasons.contains(&"subuid-missing".to_owned()), "{reasons:?}");

        machine.decide(&[("allocate-subids", "yes"), ("revoke", "yes")]);
        let outcome = machine.grant("AllocateSubIds", &[]);
        assert_eq!((outcome.grants.len(), outcome.notes.len()), (1, 0), "{outcome:?}");
        assert_eq!(outcome.needs, ["engine-restart"]);
        let given = files();
        // Where useradd(8) has not been, and systemd leaves all to containers.
        for file in ["subuid", "subgid"] {
            assert!(given.contains(&format!("{file}:tester:524288:65536")), "{given}");
        }
        machine.ctl(["start"]);
        machine.serve();

        // Whoever has enough is given nothing, and nobody is asked.
        machine.decide(&[("allocate-subids", "no"), ("revoke", "yes")]);
        let nothing = Outcome { grants: vec![], needs: vec![], notes: vec![] };
        assert_eq!(machine.grant("AllocateSubIds", &[]), nothing);
        assert_eq!(files(), given);
        assert_eq!(machine.grants()[0]["drift"]["data"], serde_json::json!([]));

        machine.ctl(["stop"]);
        assert_eq!(machine.revoke_all(), [nothing]);
        assert_eq!(files(), before);
        machine.try_ctl(["start"]).fails();
    });
}

#[test]
fn a_hundred_users_at_once_are_given_ranges_of_their_own() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        machine.decide(&[("allocate-subids", "yes"), ("revoke", "yes")]);
        let (count, first) = CALLERS;
        // Accounts as useradd(8) makes them, but without ids. All wait for one file before they call.
        let script = r#"
            for uid in $(seq $1 $(($1 + $0 - 1))); do
                echo "u$uid:x:$uid:$uid::/nonexistent:/bin/sh" >>/etc/passwd
                echo "u$uid:x:$uid:" >>/etc/group
                echo "u$uid:!:20000::::::" >>/etc/shadow
            done
            exec 9>/run/go
            flock 9
            for uid in $(seq $1 $(($1 + $0 - 1))); do
                setpriv --reuid $uid --regid $uid --clear-groups flock -s /run/go \
                    busctl --timeout=200 --json=short call --system org.rootlessd.Helper1 \
                    /org/rootlessd/Helper1 org.rootlessd.Helper1 AllocateSubIds 9>&- &
            done
            flock -u 9
            wait
        "#;
        let answers = machine.root(["sh", "-c", script, &count.to_string(), &first.to_string()]);
        let granted = answers.stdout.lines().filter(|line| Outcome::of(line).grants.len() == 1);
        assert_eq!(granted.count(), count as usize, "{answers}");

        let mut taken = None;
        for file in ["/etc/subuid", "/etc/subgid"] {
            let text = machine.root(["cat", file]).ok();
            let ranges = ranges(&text);
            assert_eq!(ranges.len(), count as usize + 1, "{text}");
            let starts: Vec<u64> = {
                let mut starts: Vec<_> = ranges.values().copied().collect();
                starts.sort_unstable();
                starts
            };
            assert!(starts.windows(2).all(|two| two[0] + COUNT <= two[1]), "{text}");
            // The same as user and as group ids.
            assert_eq!(*taken.get_or_insert(ranges.clone()), ranges);
        }
        // The ledger has all of them, none of them cut short.
        let ledger = machine.root(["cat", "/var/lib/rootlessd/ledger.json"]).ok();
        assert_eq!(ledger.matches("\"allocate-subids\"").count(), count as usize);
        assert!(!ledger.contains("pending"));
    });
}

/// The users of such a file, and where the range of each begins.
fn ranges(text: &str) -> BTreeMap<String, u64> {
    let range = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        assert_eq!(fields[2], COUNT.to_string(), "{line}");
        (fields[0].to_owned(), fields[1].parse().expect("a number"))
    };
    text.lines().map(range).collect()
}
