#!/bin/bash
# What can be found without running anything.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
. scripts/packages.sh
need_packages libxml2-utils polkitd shellcheck

cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
xmllint --noout units/dbus-1/interfaces/*.xml units/dbus-1/system.d/*.conf
xmllint --nonet --noout --dtdvalid /usr/share/polkit-1/policyconfig-1.dtd polkit/*.policy
git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
