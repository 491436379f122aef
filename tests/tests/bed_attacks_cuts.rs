//! Attacks 19 and 20 of the list: the helper is killed, or a system call fails, at every single one.

use rootlessd_tests::{
    attacks::{
        random::Random,
        target::{Rule, Target},
    },
    bed::Suite,
    machine::rounds,
};

const ATTACKER: &str = env!("CARGO_BIN_EXE_rootlessd-attacker");

/// Shell functions: what has to hold after whatever was cut short, once the next operation is done.
const CHECKS: &str = r#"
conf=/etc/sysctl.d/60-rootlessd.conf start=/proc/sys/net/ipv4/ip_unprivileged_port_start
# The ids of the entries.
entries() {
    local list; list=$(rootlessd-helper apply list) || return
    sed -n 's/^\([0-9a-f]\{32\}\) .*/\1/p' <<<"$list"
}
# Whole, whatever else: no reader ever sees a half of it.
whole() {
    local ledger=/var/lib/rootlessd/ledger.json
    {
        { [ ! -e $conf ] || [ "$(grep -v '^#' $conf)" = "net.ipv4.ip_unprivileged_port_start = 80" ]; } &&
        { [ ! -e $ledger ] || jq -e .version $ledger >/dev/null; }
    } || { echo "$1: half a file"; head $conf $ledger; exit 1; }
}
# The next operation mends it: all of it, or nothing.
mended() {
    local ids; ids=$(entries) || { echo "$1: no list"; exit 1; }
    case $(wc -w <<<"$ids") in
    0) [ ! -e $conf ] && [ "$(cat $start)" = 1024 ] ;;
    1) [ -e $conf ] && [ "$(cat $start)" = 80 ] ;;
    *) false ;;
    esac || { echo "$1: entries: $ids, start $(cat $start), $(ls $conf 2>&1)"; exit 1; }
}
revoke_all() {
    local id ids; ids=$(entries) || { echo "$1: no list"; exit 1; }
    for id in $ids; do
        rootlessd-helper apply revoke $id >/dev/null || { echo "$1: not revoked: $id"; exit 1; }
    done
}
grant() { rootlessd-helper apply set-unprivileged-port-start 80 --for tester; }
# And nothing that is nobody's is left.
clean() {
    left=$(find /etc /var/lib/rootlessd -name '.*new' -o -name '*rootlessd*.conf')
    [ -z "$left" ] && [ "$(cat $start)" = 1024 ] || { echo "$1: left: $left"; exit 1; }
}
"#;

fn boot() -> Target {
    Target::boot(Suite::Trixie, ATTACKER, Rule::Yes)
}

/// Runs a command that is killed at its first, second … system call of each kind, until it has no more;
/// how often that was.
fn at_each(target: &Target, prepare: &str, command: &str) -> u32 {
    let script = format!(
        r#"{CHECKS}
        points=0
        for call in openat openat2 read write writev sendmsg fsync rename renameat renameat2 unlinkat mkdirat \
            fchmod flock fcntl ftruncate fstat newfstatat statx close exit_group; do
            n=0
            while n=$((n + 1)); do
                {prepare}
                # It is through when it has fewer.
                strace -qq -o /run/trace -e trace=$call -e inject=$call:signal=SIGKILL:when=$n \
                    {command} >/run/said 2>&1 && break
                whole $call-$n; mended $call-$n; revoke_all $call-$n; clean $call-$n
                points=$((points + 1))
            done
            revoke_all $call; clean $call
        done
        echo $points"#
    );
    let output = target.root(["bash", "-c", &script]);
    let last = output.stdout.lines().last().unwrap_or_default().to_owned();
    assert!(output.status.success(), "{output}");
    last.parse().expect("a number")
}

#[test]
fn attack_19_killed_at_each_system_call_of_a_grant() {
    let target = boot();
    let command = "rootlessd-helper apply set-unprivileged-port-start 80 --for tester";
    let points = at_each(&target, "true", command);
    eprintln!("killed at {points} points");
    assert!(points > 50, "{points}");
}

#[test]
fn attack_19_killed_at_each_system_call_of_a_revocation() {
    let target = boot();
    let prepare = "id=$(grant | sed -n 's/granted: //p')";
    let points = at_each(&target, prepare, "rootlessd-helper apply revoke $id");
    eprintln!("killed at {points} points");
    assert!(points > 50, "{points}");
}

#[test]
fn attack_19_the_service_is_killed_at_random() {
    let target = boot();
    let seed = Random::seed();
    let mut random = Random::new(seed);
    eprintln!("seed {seed}");
    for _ in 0..rounds(50) {
        target.helper();
        let after = random.below(12_000);
        let script = format!(
            r#"{CHECKS}
            (setpriv --reuid tester --regid tester --clear-groups \
                rootlessd-attacker call SetUnprivilegedPortStart q 80 >/dev/null) &
            perl -e 'select undef, undef, undef, {after} / 1e6'
            systemctl kill -s KILL rootlessd-helper; wait
            whole random; mended random; revoke_all random; clean random"#
        );
        target.root(["bash", "-c", &script]).ok();
    }
    // One that was killed is not kept from starting again.
    target.grant(["ListGrants", ""]);
}

#[test]
fn attack_20_a_write_that_fails_leaves_nothing_half_done() {
    let target = boot();
    let command = "rootlessd-helper apply set-unprivileged-port-start 80 --for tester";
    for error in ["ENOSPC", "EROFS", "EDQUOT"] {
        let script = format!(
            r#"{CHECKS}
            points=0
            for call in write fsync renameat rename renameat2 fchmod openat openat2 unlinkat; do
                n=0
                while n=$((n + 1)); do
                    strace -qq -o /run/trace -e trace=$call -e inject=$call:error={error}:when=$n {command} \
                        >/run/said 2>&1 && failed= || failed=1
                    grep -q INJECTED /run/trace || break
                    # Both halves are as it says, at once, if it says that it is done.
                    [ -n "$failed" ] || [ "$(cat $start)" = 80 ] || {{ cat /run/said; exit 1; }}
                    point="$call-$n {error}"; whole "$point"; mended "$point"; revoke_all "$point"; clean "$point"
                    points=$((points + 1))
                done
                revoke_all $call; clean $call
            done
            echo $points"#
        );
        let said = target.root(["bash", "-c", &script]).ok();
        eprintln!("{error} at {said} points");
        assert!(said.parse::<u32>().is_ok_and(|points| points > 8), "{said}");
    }
}
