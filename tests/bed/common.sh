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

# shellcheck source=scripts/packages.sh
. "$HERE/../../scripts/packages.sh"
