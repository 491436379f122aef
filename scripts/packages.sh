# Sourced: installs Debian packages that are missing, as root or through sudo.
# shellcheck shell=bash

privileged() {
    if [ "$EUID" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_get() {
    privileged env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600 "$@"
}

# in_turn COMMAND...: one of ours at a time. apt waits for others' lock of the packages, but not for that of the lists.
in_turn() (
    exec {turn}</var/lib/dpkg
    flock "$turn"
    "$@" {turn}<&- # what a package starts does not keep the lock
)

need_packages() {
    local missing
    missing=$(missing_of "$@")
    [ -z "$missing" ] || in_turn install_missing "$@"
}

missing_of() {
    local package
    for package; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

install_missing() {
    local missing
    mapfile -t missing < <(missing_of "$@")
    [ ${#missing[@]} != 0 ] || return 0 # somebody else has installed them meanwhile
    echo "installing ${missing[*]}" >&2
    local install=(apt_get install --no-install-recommends -y "${missing[@]}")
    # The lists of a fresh machine are empty or old: they are fetched only if that turns out to be so.
    "${install[@]}" >/dev/null 2>&1 || { apt_get update >&2 && "${install[@]}" >&2; }
}

# Rust links with it.
need_linker() {
    command -v cc >/dev/null || need_packages gcc libc6-dev
}

# As need_packages, with Docker among them: where it was not there, its rootful service is kept from starting, now and later.
need_docker() (
    if [ "$(dpkg-query -Wf '${db:Status-Status}' docker.io 2>/dev/null)" = installed ] || command -v dockerd >/dev/null; then
        need_packages "$@"
        exit
    fi
    units=(docker.service docker.socket)
    [ -e /lib/systemd/system/containerd.service ] || units+=(containerd.service) # that one may be somebody's
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'privileged rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' | privileged tee $policy >/dev/null
        privileged chmod 755 $policy
    fi
    need_packages docker.io "$@"
    if [ -d /run/systemd/system ]; then
        privileged systemctl disable -q --now "${units[@]}" 2>/dev/null || true
    fi
    echo "Docker was not installed: its rootful service, which comes with the package, stays off" >&2
)
