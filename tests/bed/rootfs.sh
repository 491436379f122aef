#!/bin/bash
# usage: rootfs.sh SUITE    prints the folder with a root file system of that Debian suite, made ready for a bed
#
# It is built once for each state of this script and of files/, and kept outside the tree.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
# shellcheck source=tests/bed/debian.sh
. "$HERE/debian.sh"
need_root "$@"

suite=${1:?suite}
tester=4242 # a uid that nobody on the machine has: beds share the machine's users

key=$(cd "$HERE" && find rootfs.sh debian.sh files -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
out=$BED/rootfs-$suite-$key
found() {
    touch "$out" # the date of its last use
    echo "$out"
    exit
}
[ -d "$out" ] && found

mkdir -p "$BED"
chmod 700 "$BED" # there will be setuid programs in it
exec 9>"$BED/rootfs-$suite.lock"
flock 9
[ -d "$out" ] && found # somebody else has built it meanwhile

rm -rf --one-file-system "$BED/building-$suite".* # cut short
work=$(mktemp -d "$BED/building-$suite.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work"
root=$work/root

packages=(
    systemd systemd-sysv systemd-container dbus dbus-user-session libpam-systemd polkitd pkexec sudo
    docker.io docker-compose rootlesskit slirp4netns passt uidmap fuse-overlayfs iptables
    busybox-static ca-certificates curl inotify-tools iproute2 iputils-ping jq libcap2-bin procps socat strace
)
case $suite in bookworm) ;; *) packages+=(docker-cli docker-buildx) ;; esac

echo "building a root file system of $suite: about a minute, once" >&2
debian "$suite" "$root" --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --include="$(IFS=,; echo "${packages[*]}")"

cp -r --no-preserve=ownership "$HERE/files/." "$root/"
chroot "$root" useradd --uid $tester --create-home --shell /bin/bash tester
sed -i '/^tester:/d' "$root"/etc/sub[ug]id
for f in subuid subgid; do echo tester:100000:65536 >>"$root/etc/$f"; done
mkdir -p "$root/var/lib/systemd/linger" "$root/var/log/journal" "$root/bed"
touch "$root/var/lib/systemd/linger/tester" # what `loginctl enable-linger` does
touch "$root/etc/.updated" "$root/var/.updated" # nothing to bring up to date at the first boot

systemctl="systemctl --root=$root --quiet"
# Installed, but not running: the engine of this machine is the user's.
$systemctl disable docker.service docker.socket containerd.service 2>/dev/null
$systemctl enable bed-setup.service bed-ready.service
# A container has no use for these, and they take time.
$systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
    systemd-udevd.service systemd-modules-load.service systemd-hwdb-update.service ldconfig.service \
    systemd-journal-catalog-update.service systemd-timesyncd.service systemd-networkd-wait-online.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount run-lock.mount tmp.mount \
    modprobe@{configfs,drm,efi_pstore,fuse,dm_mod,loop}.service console-getty.service getty@tty1.service

mv "$root" "$out"
# Earlier states that nobody has used for a week.
find "$BED" -maxdepth 1 -name "rootfs-$suite-*" -mtime +7 -exec rm -rf --one-file-system {} +
found
