# Sourced: the machine that tests have, as a bed or as a virtual machine.
# shellcheck shell=bash

tester=4242 # a uid that nobody on the machine has: beds share the machine's users

# What a machine with rootless Docker has, and what tests look with.
packages_of() {
    local packages=(
        systemd systemd-sysv systemd-container dbus dbus-user-session libpam-systemd polkitd pkexec sudo
        docker.io docker-compose rootlesskit slirp4netns passt uidmap fuse-overlayfs iptables
        busybox-static ca-certificates curl inotify-tools iproute2 iputils-ping jq libcap2-bin procps socat strace
    )
    case $1 in bookworm) ;; *) packages+=(docker-cli docker-buildx) ;; esac
    (IFS=, && echo "${packages[*]}")
}

# The user `tester`, who has a systemd from boot on, and nobody else's Docker. ROOT
with_tester() {
    local root=$1 f
    chroot "$root" useradd --uid "$tester" --create-home --shell /bin/bash tester
    sed -i '/^tester:/d' "$root"/etc/sub[ug]id
    for f in subuid subgid; do echo tester:100000:65536 >>"$root/etc/$f"; done
    mkdir -p "$root/var/lib/systemd/linger"
    touch "$root/var/lib/systemd/linger/tester" # what `loginctl enable-linger` does
    # Installed, but not running: the engine of this machine is the user's.
    systemctl --root="$root" --quiet disable docker.service docker.socket containerd.service 2>/dev/null
}
