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
bin=$root/bin units=$root/lib/systemd/user dbus=$root/share/dbus-1

# Prints mode, source and target of each file, in lines.
files() {
	echo "755 $built/rootlessd $bin/rootlessd"
	echo "755 $built/rootlessctl $bin/rootlessctl"
	for file in units/user/*; do echo "644 $file $units/${file##*/}"; done
	for file in units/dbus-1/services/*; do echo "644 $file $dbus/services/${file##*/}"; done
	for file in units/dbus-1/interfaces/*; do echo "644 $file $dbus/interfaces/${file##*/}"; done
	for file in units/varlink/*; do echo "644 $file $root/share/varlink/${file##*/}"; done
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

if [ -n "$remove" ]; then
	files | while read -r _ _ target; do rm -f "$target"; done
	completions | while read -r _ target; do rm -f "$target"; done
	exit 0
fi
if [ ! -x "$built/rootlessd" ] || [ ! -x "$built/rootlessctl" ]; then
	echo "there is nothing to install yet: run \`make build\` first" >&2
	exit 1
fi
refuse_packaged "$1"
files | while read -r mode source target; do
	install -D -m "$mode" "$source" "$target"
done
completions | while read -r shell target; do
	mkdir -p "${target%/*}"
	"$built/rootlessctl" completion "$shell" >"$target"
done
