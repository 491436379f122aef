#!/bin/bash
# `make run`, twice, on a fresh Debian that has make and Rust, and nothing else.
#
# usage: fresh.sh SUITE INIT WHO [WITH]
#          SUITE  trixie, bookworm, forky
#          INIT   systemd, or none
#          WHO    root, or an ordinary user with sudo: login (who logged in) or plain (in a shell that no login made)
#          WITH   rootful: Docker is there and runs a container, to be left alone
#        fresh.sh all
# shellcheck disable=SC2031 # the $run of one function that is a subshell
set -euo pipefail
# shellcheck source=tests/bed/bed.sh
. "$(dirname "$0")/../bed/bed.sh"
# shellcheck source=tests/bed/debian.sh
. "$HERE/debian.sh"
fresh=$HERE/../fresh
tree=$(realpath "$HERE/../..")

# Prints the folder with the machine as it is before anything of ours.
base() {
    local suite=$1 init=$2 work packages=(make ca-certificates sudo) out
    [ "$init" = none ] || packages+=(systemd systemd-sysv dbus libpam-systemd)
    out=$BED/fresh-$suite-$init-$(cat "$fresh/fresh.sh" "$HERE/debian.sh" | sha256sum | cut -c1-12)
    echo "$out"
    [ ! -d "$out" ] || return 0
    mkdir -p "$BED"
    chmod 700 "$BED"
    rm -rf --one-file-system "$BED/fresh-$suite-$init-"*
    work=$(mktemp -d "$BED/fresh-$suite-$init-building.XXXXXX")
    chmod 755 "$work"
    debian "$suite" "$work/root" --include="$(IFS=,; echo "${packages[*]}")"
    chroot "$work/root" useradd --create-home --shell /bin/bash ada
    echo 'ada ALL=(ALL:ALL) NOPASSWD: ALL' >"$work/root/etc/sudoers.d/ada" # there is no terminal to ask at
    # shellcheck disable=SC2016 # expanded inside
    echo 'PATH=$PATH:/opt/rust/bin' >"$work/root/etc/profile.d/rust.sh"
    mkdir "$work/root/opt/rust"
    # A machine may vouch for more than Debian does.
    cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
    echo 'nameserver 10.0.2.3' >"$work/root/etc/resolv.conf" # slirp4netns's
    mv "$work/root" "$out"
    rm -rf "$work"
}

# The machine, from its start to its end. Its network is its own, and reaches what the outside reaches.
keep() {
    local init=$2 who=$3 with=$4 root=$run/root args cgroup
    prepare
    cp -a "$1" "$root"
    echo "$name" >"$root/etc/hostname"
    printf "127.0.0.1 localhost\n127.0.1.1 %s\n" "$name" >"$root/etc/hosts"
    mkdir "$root/src"
    (cd "$tree" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -c) |
        tar -C "$root/src" -x --no-same-owner
    [ ! -d "$run/target" ] || mv "$run/target" "$root/src/target"
    [ "$who" = root ] || chroot "$root" chown -R ada: /src

    touch "$run/net"
    unshare --net="$run/net" true
    slirp4netns --configure --mtu=65520 --disable-host-loopback --netns-type=path "$run/net" eth0 &
    echo 1 >"$run/ctl/boot" # which bed.sh looks for
    mkdir "$cgroup/boot-1"
    echo $BASHPID >"$cgroup/boot-1/cgroup.procs"
    export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network # which it leaves to who brings a network of their own
    args=(--directory="$root" --network-namespace-path="$run/net" --bind="$run/ctl:/fresh" --bind-ro="$rust:/opt/rust")
    if [ "$init" = systemd ]; then
        cat >"$root/etc/systemd/system/fresh.service" <<UNIT
[Unit]
After=network.target systemd-user-sessions.service systemd-logind.service dbus.service
[Service]
ExecStart=/src/tests/fresh/inside.sh $who $with
UNIT
        ln -s ../fresh.service "$root/etc/systemd/system/multi-user.target.wants/"
        mknod -m 666 "$run/tun" c 10 200 # udev's
        nspawn "${args[@]}" --bind="$run/tun:/dev/net/tun" --boot
    else
        nspawn "${args[@]}" --as-pid2 /src/tests/fresh/inside.sh "$who" "$with"
    fi
}

machine() {
    local suite=$1 init=$2 who=$3 with=${4:-} base
    use "fresh-$suite-$init-$who${with:+-$with}"
    echo "==== $suite, $init, $who${with:+, $with}"
    need_packages systemd-container slirp4netns
    base=$(base "$suite" "$init")
    stop
    mkdir -p "$run/ctl"
    echo "$$ $(start_time $$)" >"$run/owner"
    : >"$run/ctl/out"
    [ -z "${ROOTLESSD_BED_KEEP:-}" ] || touch "$run/ctl/keep"
    [ -z "${ROOTLESSD_BED_TARGET:-}" ] || cp -a "$ROOTLESSD_BED_TARGET" "$run/target"
    modprobe -qa overlay tun 2>/dev/null || true
    launch "$fresh/fresh.sh" keep "$name" "$base" "$init" "$who" "$with"
    tail -n +1 -f "$run/ctl/out" --pid="$(<"$run/keeper")"
    if [ "$(cat "$run/ctl/status" 2>/dev/null)" != 0 ]; then
        tail -n 20 "$run/console.log" >&2
        die "failed: $*"
    fi
    stop
}

# The machine's root may have no Rust; whoever calls has.
rust=${ROOTLESSD_BED_RUST:=$(rustc --print sysroot)}
need_root "$@"
case ${1:?suite} in
keep)
    use "$2"
    shift 2
    keep "$@"
    ;;
all)
    machine trixie none root
    machine trixie none login
    machine trixie systemd root
    machine trixie systemd login rootful
    machine bookworm systemd login
    machine bookworm systemd plain
    ;;
*) machine "$@" ;;
esac
