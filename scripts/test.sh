#!/bin/bash
# test.sh [--fast]: every test; with --fast, those that need no real systemd.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
. scripts/packages.sh
scripts/check-rust.sh
need_docker rootlesskit slirp4netns uidmap iptables busybox-static curl dbus python3-minimal
scripts/lint.sh

# The real engine and the beds are driven with what `make install` installs.
make -s build
fast=()
[ "${1:-}" != --fast ] || fast=(-E 'not binary(/^bed_/)')
if [ ${#fast[@]} = 0 ]; then
    cargo test --locked --workspace
else
    cargo test --locked --workspace --exclude rootlessd-tests
fi
