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
# systemd and D-Bus look for these below every prefix that they know: /usr and /usr/local.
bin=$root/bin units=$root/lib/systemd/user dbus=$root/share/dbus-1

# Prints mode, source and target of each file, in lines.
files() {
	echo "755 target/release/rootlessd $bin/rootlessd"
	echo "755 target/release/rootlessctl $bin/rootlessctl"
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

if [ -n "$remove" ]; then
	files | while read -r _ _ target; do rm -f "$target"; done
	exit 0
fi
if [ ! -x target/release/rootlessd ] || [ ! -x target/release/rootlessctl ]; then
	echo "there is nothing to install yet: run \`make build\` first" >&2
	exit 1
fi
refuse_packaged "$1"
files | while read -r mode source target; do
	install -D -m "$mode" "$source" "$target"
done
# Completions for the shells, made by the program itself.
for shell in bash:bash-completion/completions/rootlessctl zsh:zsh/site-functions/_rootlessctl \
	fish:fish/vendor_completions.d/rootlessctl.fish; do
	target=$root/share/${shell#*:}
	mkdir -p "${target%/*}"
	target/release/rootlessctl completion "${shell%%:*}" >"$target"
done
