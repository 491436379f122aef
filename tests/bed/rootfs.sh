#!/bin/bash
# usage: rootfs.sh SUITE    prints the folder with a root file system of that Debian suite, made ready for a bed
#
# It is built once for each state of this script and of files/, and kept outside the tree.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
# shellcheck source=tests/bed/debian.sh
. "$HERE/debian.sh"
# shellcheck source=tests/bed/tester.sh
. "$HERE/tester.sh"
need_root "$@"

suite=${1:?suite}

key=$(cd "$HERE" && find rootfs.sh debian.sh tester.sh files -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
cached "rootfs-$suite" "$key"

echo "building a root file system of $suite: about a minute, once" >&2
debian "$suite" "$root" --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --include="$(packages_of "$suite")"

cp -r --no-preserve=ownership "$HERE/files/." "$root/"
with_tester "$root"
mkdir -p "$root/var/log/journal" "$root/bed"
touch "$root/etc/.updated" "$root/var/.updated" # nothing to bring up to date at the first boot

systemctl="systemctl --root=$root --quiet"
$systemctl enable bed-setup.service bed-ready.service
# A container has no use for these, and they take time.
$systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
    systemd-udevd.service systemd-modules-load.service systemd-hwdb-update.service ldconfig.service \
    systemd-journal-catalog-update.service systemd-timesyncd.service systemd-networkd-wait-online.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount run-lock.mount tmp.mount \
    modprobe@{configfs,drm,efi_pstore,fuse,dm_mod,loop}.service console-getty.service getty@tty1.service

put_away "$root"
