#!/bin/bash
# attacks.sh: the attack list against the real helper, and the fuzzer with thousands of calls; prints a table. A test about
# an attack has its number in its name.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

titles=(
    "every method as nobody"
    "a method or property without an action"
    "the caller becomes another program"
    "the caller goes, a thousand times"
    "a yes for one port, used for another"
    "polkit stands still, is masked, or its rules fail"
    "nobody to ask"
    "rules that say yes to all"
    "a build without authorization"
    "for root, nobody, -1, 2^31, a deleted user"
    "root on behalf of a user; a forged sender"
    "a capability for something else than the program"
    "swapped between the check and the change"
    "a program that others can change"
    "open files attached to calls"
    "other capabilities, paths, users, leases as arguments"
    "values with lines of their own"
    "links, directories, mounts in its files' places"
    "killed at each system call"
    "no space, read-only, over quota"
    "a thousand requests for subordinate ids"
    "a drop-in of the user's choice"
    "an AppArmor profile"
    "taken back: exactly, once, while in use"
    "umask, libraries, locale of the environment"
    "control characters, 30 MB, no UTF-8; the journal"
    "10,000 calls a second; unanswered questions"
    "a thousand reloads of systemd"
    "the fuzzer: helper and supervisor"
    "guessed and foreign grants"
    "taken back while the port is bound"
    "other cgroups, protocols, ports, containers"
)

export ROOTLESSD_FUZZ_CALLS=${ROOTLESSD_FUZZ_CALLS:-1000}
tests=(--test helper_bus)
for file in tests/tests/bed_attacks_*.rs; do tests+=(--test "$(basename "$file" .rs)"); done
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{
    cargo test --locked -p rootlessd-helper --lib attack_
    cargo test --locked --no-fail-fast -p rootlessd-tests "${tests[@]}" attack_ -- --show-output --test-threads=2
} 2>&1 | tee "$log" | grep -E '^(test .*attack_|error)' >&2

failed=0
printf '\n%2s  %-52s %s\n' "" attack result
for n in "${!titles[@]}"; do
    number=$(printf %02d $((n + 1)))
    results=$(sed -n "s/.*test .*attack_${number}_.* \.\.\. \(ok\|FAILED\).*/\1/p" "$log" | sort | uniq -c)
    case $results in
    "") result="no test" ;;
    *FAILED*) result=FAILED ;;
    *) result="ok ($(awk '{ print $1 == 1 ? "1 test" : $1 " tests" }' <<<"$results"))" ;;
    esac
    [[ $result = ok* ]] || failed=$((failed + 1))
    printf '%2d  %-52s %s\n' $((n + 1)) "${titles[n]}" "$result"
done
printf '\n'
# Of the fuzzer's runs, what came back how often.
awk '
    /^as .*, polkit says/ { who = $0 }
    /^seed [0-9]+$/ { seed = $2; fuzz = 1; next }
    fuzz && /^[A-Z][A-Za-z]*: / {
        sub(/^[A-Za-z]*: /, "")
        for (n = split($0, results, ", "); n; n--) {
            match(results[n], / [0-9]+$/)
            many[substr(results[n], 1, RSTART - 1)] += substr(results[n], RSTART)
        }
        next
    }
    fuzz {
        fuzz = 0
        line = ""
        for (result in many) line = line ", " result " " many[result]
        if (line != "") print "fuzzer, " (who ? who : "the supervisor:") " seed " seed line
        delete many
        who = ""
    }' "$log"
printf '\n%d of %d\n' $((${#titles[@]} - failed)) ${#titles[@]}
[ $failed = 0 ]
