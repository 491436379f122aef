#!/bin/sh
# install.sh [--remove] DESTDIR PREFIX: installs what `make build` built, or removes it again.
set -eu
cd "$(dirname "$0")/.."

remove=
if [ "$1" = --remove ]; then
	remove=1
	shift
fi
root=$1$2
# Tests install what they were built with.
built=${ROOTLESSD_BIN_DIR:-target/release}
# systemd and D-Bus look for these below every prefix that they know: /usr and /usr/local.
bin=$root/bin sbin=$root/sbin units=$root/lib/systemd dbus=$root/share/dbus-1
# For these there is one place, whatever the prefix: dbus-daemon reads no policy below /usr/local, polkit before 126 no
# actions.
policy=$1/usr/share/dbus-1/system.d actions=$1/usr/share/polkit-1/actions
apparmor=$1/etc/apparmor.d

# Prints mode, source and target of each file, in lines.
files() {
	echo "755 $built/rootlessd $bin/rootlessd"
	echo "755 $built/rootlessctl $bin/rootlessctl"
	echo "755 $built/rootlessd-helper $sbin/rootlessd-helper"
	for file in units/user/*; do echo "644 $file $units/user/${file##*/}"; done
	for file in units/system/*; do echo "644 $file $units/system/${file##*/}"; done
	for file in units/dbus-1/services/*; do echo "644 $file $dbus/services/${file##*/}"; done
	for file in units/dbus-1/interfaces/*; do echo "644 $file $dbus/interfaces/${file##*/}"; done
	for file in units/dbus-1/system-services/*; do echo "644 $file $dbus/system-services/${file##*/}"; done
	for file in units/dbus-1/system.d/*; do echo "644 $file $policy/${file##*/}"; done
	for file in units/varlink/*; do echo "644 $file $root/share/varlink/${file##*/}"; done
	for file in polkit/*.policy; do echo "644 $file $actions/${file##*/}"; done
	for file in polkit/rules/*; do echo "644 $file $root/share/doc/rootlessd/polkit-rules/${file##*/}"; done
	if our_profile; then echo "644 units/apparmor/rootlesskit $apparmor/rootlesskit"; fi
}

# RootlessKit's AppArmor profile is for AppArmor 4, which is where its abi/4.0 is, and only if there is no other: most
# distributions have one, and of two for one program neither holds.
our_profile() {
	if [ -e "$apparmor/rootlesskit" ]; then
		grep -q 'Part of rootlessd' "$apparmor/rootlesskit"
	else
		[ -e "$apparmor/abi/4.0" ] && ! grep -rqsE '^[^#]*/usr/bin/[^ ]*rootlesskit' "$apparmor"
	fi
}

# Debian's rootlesskit package has a rootlessctl too, for one.
refuse_packaged() {
	[ -z "$1" ] && command -v dpkg-query >/dev/null || return 0
	files | while read -r _ _ target; do
		if owner=$(dpkg-query -S "$target" 2>/dev/null); then
			echo "$target belongs to the package ${owner%%:*}: install below another PREFIX" >&2
			exit 1
		fi
	done
}

# Prints shell and target of each completion, which the program itself writes.
completions() {
	echo "bash $root/share/bash-completion/completions/rootlessctl"
	echo "zsh $root/share/zsh/site-functions/_rootlessctl"
	echo "fish $root/share/fish/vendor_completions.d/rootlessctl.fish"
}

# On a machine that runs, what has changed is told to those who have read it before; polkit notices by itself.
tell() {
	[ -z "$1" ] && [ -d /run/systemd/system ] || return 0
	systemctl daemon-reload
	! systemctl --quiet is-active dbus.service || systemctl reload dbus.service
	if [ -z "$remove" ] && our_profile && [ -d /sys/kernel/security/apparmor ]; then
		apparmor_parser --replace "$apparmor/rootlesskit"
	fi
}

if [ -n "$remove" ]; then
	files | while read -r _ _ target; do rm -f "$target"; done
	completions | while read -r _ target; do rm -f "$target"; done
	tell "$1"
	exit 0
fi
for program in rootlessd rootlessctl rootlessd-helper; do
	if [ ! -x "$built/$program" ]; then
		echo "there is nothing to install yet: run \`make build\` first" >&2
		exit 1
	fi
done
refuse_packaged "$1"
files | while read -r mode source target; do
	install -D -m "$mode" "$source" "$target"
done
completions | while read -r shell target; do
	mkdir -p "${target%/*}"
	"$built/rootlessctl" completion "$shell" >"$target"
done
tell "$1"
