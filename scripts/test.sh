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

# The real engine and the beds are driven with what `make install` installs.
make -s build
if [ "${1:-}" != --fast ]; then
    # To the end whatever fails: whoever reads it later sees all of it.
    exec cargo test --locked --workspace --no-fail-fast
fi
tests=(--lib)
for test in tests/tests/*; do
    name=$(basename "$test" .rs)
    [[ $name == bed_* ]] || tests+=(--test "$name")
done
cargo test --locked --workspace --no-fail-fast --exclude rootlessd-tests
cargo test --locked -p rootlessd-tests --no-fail-fast "${tests[@]}"
