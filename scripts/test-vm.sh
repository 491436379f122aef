#!/bin/bash
# test-vm.sh [NAME]...: the tests in virtual machines, all or those that are named so.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
. scripts/packages.sh
scripts/check-rust.sh
need_linker
make -s build
# One machine at a time: without hardware's help, one keeps two processors busy.
exec cargo test --locked -p rootlessd-tests --test 'vm_*' -- --ignored --test-threads=1 "$@"
