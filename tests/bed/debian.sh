# Sourced, after common.sh: a Debian that this machine's apt can fetch.
# shellcheck shell=bash

# The mirror is the one that the machine itself uses.
debian_mirror() {
    # shellcheck disable=SC2016 # these are apt's variables
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p
}

# How to fetch (proxies, checks of dates) is the machine's own affair, too.
apt_settings() {
    apt-config dump | grep -E '^Acquire::(Check-|Retries|[a-z]+::).* "' || true
    echo 'Acquire::Languages "none";'
}

# debian SUITE ROOT [OPTION-OF-MMDEBSTRAP]...: makes ROOT; the folder that it is in is for the taking, too.
debian() {
    local suite=$1 root=$2 work=${2%/*} mirror keys=/usr/share/keyrings newest=$1
    shift 2
    need_packages mmdebstrap debian-archive-keyring
    mirror=${ROOTLESSD_BED_MIRROR:-$(debian_mirror)}
    [ -n "$mirror" ] || { in_turn apt_get update >&2 && mirror=$(debian_mirror); }
    [ -n "$mirror" ] || die "apt knows no Debian mirror here: name one in ROOTLESSD_BED_MIRROR"

    # Debian signs a suite with the keys of its time. A machine older than the suite may lack them; its own apt then
    # vouches for a newer keyring, which is only unpacked, not installed.
    case $suite in bookworm | trixie) ;; *) newest=trixie ;; esac
    if ! compgen -G "$keys/debian-archive-$newest-*" >/dev/null; then
        mkdir "$work/keyring"
        (cd "$work/keyring" && apt-get -qq -o APT::Sandbox::User=root download debian-archive-keyring &&
            dpkg-deb -x ./*.deb .) >&2
        keys=$work/keyring/usr/share/keyrings
        compgen -G "$keys/debian-archive-$newest-*" >/dev/null || die "no keyring here knows $suite: is this machine too old?"
    fi

    apt_settings >"$work/apt.conf"
    # It sees no processes but its own: some packages' scripts end daemons by the path of their program, which is the same
    # one in other beds, and on the machine (seen: polkitd's).
    unshare --pid --fork --kill-child --mount-proc mmdebstrap --quiet --mode=root --variant=minbase --keyring="$keys/debian-archive-keyring.gpg" \
        --aptopt="$work/apt.conf" --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io "$@" \
        "$suite" "$root" "$mirror" >&2
}
