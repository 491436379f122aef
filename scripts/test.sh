#!/bin/bash
# test.sh [--fast]: every test; with --fast, those that need no real systemd.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
. scripts/packages.sh
scripts/check-rust.sh
need_docker rootlesskit slirp4netns passt uidmap iproute2 iptables busybox-static curl dbus polkitd git procps python3-minimal
need_linker
scripts/lint.sh

log=$(mktemp)
# What failed is far above when all is done, between the journals of beds: it is told once more, in few lines.
end() {
    local code=$?
    # A command's message begins with the command, which may be a long script, and ends with what it said.
    [ $code = 0 ] || awk '
        function tell() {
            for (i = 1; i <= n; i++) if (i <= 3 || i > n - 12) print substr(message[i], 1, 500)
            n = 0
        }
        /^thread .* panicked at / { tell(); inside = 1 }
        /^(stack backtrace:|note: |---- |failures:|test )/ { tell(); inside = 0 }
        inside && NF { message[++n] = $0 }
        END { tell() }
    ' "$log"
    rm -f "$log"
    exit $code
}
trap end EXIT
run_tests() {
    cargo test --locked --no-fail-fast "$@" 2>&1 | tee -a "$log"
}

# The real engine and the beds are driven with what `make install` installs.
make -s build
if [ "${1:-}" != --fast ]; then
    # To the end whatever fails: whoever reads it later sees all of it.
    run_tests --workspace
    exit
fi
tests=(--lib)
for test in tests/tests/*; do
    name=$(basename "$test" .rs)
    [[ $name == bed_* ]] || tests+=(--test "$name")
done
run_tests --workspace --exclude rootlessd-tests
run_tests -p rootlessd-tests "${tests[@]}"
