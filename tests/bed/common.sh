# Sourced by the other scripts: where things are kept, and how to become root.
# shellcheck shell=bash

# shellcheck disable=SC2034 # for those who source this
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BED=${ROOTLESSD_BED:-/var/cache/rootlessd-bed}

umask 022

die() {
    echo "${0##*/}: $*" >&2
    exit 125 # what no command inside a bed is likely to use
}

# Runs the calling script again as root, if it is not.
need_root() {
    [ "$EUID" = 0 ] && return
    local settings=() v
    for v in "${!ROOTLESSD_BED@}" "${!ROOTLESSD_VM@}"; do settings+=("$v=${!v}"); done
    exec sudo env "${settings[@]}" "$0" "$@"
}

# cached WHAT KEY: where a WHAT of this KEY is kept, in $out. If it is there, that is printed and this script ends. If not, it is
# this script's to make, in the folder $work, with its root file system in $root, and to `put_away`.
cached() {
    what=$1
    out=$BED/$what-$2
    [ ! -d "$out" ] || found
    mkdir -p "$BED"
    chmod 700 "$BED" # there will be setuid programs in it, or keys
    exec 9>"$BED/$what.lock"
    flock 9
    [ ! -d "$out" ] || found # somebody else has built it meanwhile

    rm -rf --one-file-system "$BED/building-$what".* # cut short
    work=$(mktemp -d "$BED/building-$what.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    chmod 755 "$work"
    root=$work/root
}

found() {
    touch "$out" # the date of its last use
    echo "$out"
    exit
}

put_away() {
    mv "$1" "$out"
    # Earlier states that nobody has used for a week.
    find "$BED" -maxdepth 1 -name "$what-*" -mtime +7 -exec rm -rf --one-file-system {} +
    found
}

# shellcheck source=scripts/packages.sh
. "$HERE/../../scripts/packages.sh"
