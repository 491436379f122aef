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
    for v in "${!ROOTLESSD_BED@}"; do settings+=("$v=${!v}"); done
    exec sudo env "${settings[@]}" "$0" "$@"
}

# Installs those Debian packages that are missing here.
need_packages() {
    local missing=() p
    for p; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "installing ${missing[*]}" >&2
    local get=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    local install=("${get[@]}" install --no-install-recommends -y "${missing[@]}")
    # The lists of a fresh machine are empty or old: they are fetched only if that turns out to be so.
    "${install[@]}" >/dev/null 2>&1 || { "${get[@]}" update >&2 && "${install[@]}" >&2; }
}
