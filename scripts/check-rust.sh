#!/bin/sh
# Says in one line what is wrong with the Rust that is there, if anything.
set -eu
cd "$(dirname "$0")/.."
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! found=$(rustc --version 2>/dev/null); then
	echo "rootlessd needs Rust $wanted or newer, and there is no rustc in PATH that works: rustup brings one" >&2
	exit 1
fi
found=$(echo "$found" | cut -d' ' -f2)
oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n1)
if [ "$oldest" != "$wanted" ]; then
	echo "rootlessd needs Rust $wanted or newer, and this is $found: \`rustup update\` brings a newer one" >&2
	exit 1
fi
