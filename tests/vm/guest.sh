#!/bin/bash
# usage: guest.sh SUITE    prints the folder with a guest of that Debian suite: its disk, and the state in which it has booted
#
# It is built once for each state of these scripts, and kept outside the tree. Needs root.
set -euo pipefail
# shellcheck source=tests/vm/vm.sh
. "$(dirname "$0")/vm.sh"
# shellcheck source=tests/bed/debian.sh
. "$HERE/debian.sh"
# shellcheck source=tests/bed/tester.sh
. "$HERE/tester.sh"

suite=${1:?suite}
need_packages busybox-static e2fsprogs openssh-client qemu-system-x86 socat zstd

key=$(cd "$VM_HERE" && {
    find . ../bed/{debian,tester,image}.sh -type f -not -name README.md -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    qemu-system-x86_64 --version # a state is for the QEMU that wrote it
} | sha256sum | cut -c1-12)
[ "$(dpkg --print-architecture)" = amd64 ] || die "the guest is an amd64, and so has to be this machine"
cached "guest-$suite" "$key"
trap 'end; rm -rf --one-file-system "$work"' EXIT
run=$work/run

echo "building a guest of $suite: about three minutes, once" >&2
# An initrd with what it takes to find the disk.
# shellcheck disable=SC2016 # mmdebstrap expands it
few='mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
    echo MODULES=list >"$1/etc/initramfs-tools/conf.d/vm.conf"
    printf "virtio_pci\nvirtio_blk\next4\n" >"$1/usr/share/initramfs-tools/modules.d/vm"'
debian "$suite" "$root" --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --essential-hook="$few" \
    --include="$(packages_of "$suite"),apparmor,linux-image-cloud-amd64,openssh-server,udev"

cp -r --no-preserve=ownership "$VM_HERE/files/." "$root/"
with_tester "$root"
mkdir -p "$root/var/log/journal" "$root/bed"
"$HERE/image.sh" "$root/bed/image.tar"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id" # with none, the first boot would turn all services on
echo guest >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 guest\n::1 localhost\n' >"$root/etc/hosts"
echo nameserver 198.51.100.1 >"$root/etc/resolv.conf" # refuses at once
echo '/dev/vda / ext4 defaults,noatime 0 1' >"$root/etc/fstab"

ssh-keygen -q -t ed25519 -N '' -C rootlessd -f "$work/key"
install -d -m 700 "$root/root/.ssh"
install -m 600 "$work/key.pub" "$root/root/.ssh/authorized_keys"
cp -r "$root/root/.ssh" "$root/home/tester/"
chown -R "$tester:$tester" "$root/home/tester/.ssh"
echo 'UseDNS no' >"$root/etc/ssh/sshd_config.d/vm.conf"

systemctl="systemctl --root=$root --quiet"
$systemctl enable vm-ready.service systemd-networkd.service
$systemctl set-default multi-user.target
$systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
    systemd-networkd-wait-online.service getty@tty1.service serial-getty@ttyS0.service

cp --dereference "$root/vmlinuz" "$work/kernel"
cp --dereference "$root/initrd.img" "$work/initrd"
truncate -s 8G "$work/disk"
mkfs.ext4 -q -F -E lazy_itable_init=1 -d "$root" "$work/disk"
rm -rf --one-file-system "$root"

# A boot that every test is spared.
mkdir "$run"
start "$work" off
wait_boots 1
(as_root systemctl is-system-running --wait) >&2 || { (as_root systemctl --failed) >&2; die "the guest is not well"; }
(as_root sh -c 'sync; echo 3 >/proc/sys/vm/drop_caches')
hang_up
said=$(monitor "$timeout" 'migrate_set_parameter max-bandwidth 10G' "migrate \"exec:zstd -q -1 >$work/state\"" 'info status' quit)
[[ $said == *postmigrate* ]] || die "the guest cannot be frozen: $said"
rm -r "$run"

put_away "$work"
