# The few commands a person types. Each is a thin line: what it does stands in scripts/.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo

.PHONY: build run test test-fast test-vm attacks faults fresh bench lint install uninstall

build:
	scripts/check-rust.sh
	$(CARGO) build --release --locked -p rootlessd -p rootlessctl -p rootlessd-helper

# A supervised rootless Docker on this machine, and a container in it.
run:
	scripts/run.sh

# Every test; what they need is installed.
test:
	scripts/test.sh

# Every test that needs no real systemd.
test-fast:
	scripts/test.sh --fast

# What needs a kernel of its own, in virtual machines that are emulated: slow.
test-vm:
	scripts/test-vm.sh

# The attack list against the real helper, with the fuzzer's long run, as a table.
attacks: build
	scripts/attacks.sh

# The fault matrix: each fault on each Debian, beside stock dockerd-rootless.sh, as tables; and the kill storms.
faults: build
	scripts/faults.sh

# `make run` on fresh machines; downloads much.
fresh:
	tests/fresh/fresh.sh all

# Side by side with stock dockerd-rootless.sh, in one bed.
bench: build
	scripts/bench.sh

lint:
	scripts/lint.sh

install:
	scripts/install.sh "$(DESTDIR)" "$(PREFIX)"

uninstall:
	scripts/install.sh --remove "$(DESTDIR)" "$(PREFIX)"
