# Sourced: installs Debian packages that are missing, as root or through sudo.
# shellcheck shell=bash

privileged() {
    if [ "$EUID" = 0 ]; then "$@"; else sudo "$@"; fi
}

need_packages() {
    local missing=() package
    for package; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "installing ${missing[*]}" >&2
    local get=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    local install=("${get[@]}" install --no-install-recommends -y "${missing[@]}")
    # The lists of a fresh machine are empty or old: they are fetched only if that turns out to be so.
    privileged "${install[@]}" >/dev/null 2>&1 || { privileged "${get[@]}" update >&2 && privileged "${install[@]}" >&2; }
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
