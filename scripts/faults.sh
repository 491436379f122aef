#!/bin/bash
# faults.sh: the fault matrix on rootlessd and beside stock rootless Docker, as tables; then the kill storms. Fails on a row that is worse than
# what is promised. ROOTLESSD_ROUNDS (5; 30 for a release), ROOTLESSD_SUITES and ROOTLESSD_ROWS say how often, where and what.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build -q --locked -p rootlessd-tests --bins
failed=0
target/debug/rootlessd-faults || failed=1
ROOTLESSD_ROUNDS=${ROOTLESSD_STORM:-100} cargo test -q --locked -p rootlessd-tests --test bed_storm -- --nocapture || failed=1
exit $failed
