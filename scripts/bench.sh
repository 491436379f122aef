#!/bin/bash
# rootlessd beside stock rootless Docker. ROOTLESSD_ROUNDS (10) and ROOTLESSD_SUITE (trixie) say how often and where.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run -q --locked -p rootlessd-tests --bin rootlessd-bench
