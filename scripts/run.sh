#!/bin/bash
# A supervised rootless Docker on this machine, that has run a container. Run it as often as you like.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
. scripts/packages.sh

say() { printf '\n== %s\n' "$*"; }

scripts/check-rust.sh

say "Packages"
need_docker rootlesskit slirp4netns uidmap iproute2 iptables busybox-static curl
need_linker
command -v docker >/dev/null || need_packages docker-cli
systemd=
if [ -d /run/systemd/system ]; then
    systemd=1
    # Only over the user's own bus does the user's systemd put containers below limits.
    need_packages libpam-systemd dbus-user-session
fi

say "Build"
make -s build

# Rootless Docker is a person's, and root is none: for root, an ordinary user is made.
user=$(id -un)
if [ "$EUID" = 0 ]; then
    user=${ROOTLESSD_USER:-rootless}
    id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
fi
uid=$(id -u "$user")

say "Rootless Docker of the user $user ($uid)"
# useradd gives a range to every user that it makes; others may have none.
if ! grep -qE "^($user|$uid):" /etc/subuid || ! grep -qE "^($user|$uid):" /etc/subgid; then
    from=$(awk -F: 'BEGIN { n = 524288 } $2 + $3 > n { n = $2 + $3 } END { print n }' /etc/subuid /etc/subgid)
    privileged usermod --add-subuids "$from-$((from + 65535))" --add-subgids "$from-$((from + 65535))" "$user"
fi
# udev makes it, with this mode; there may be no udev.
if [ ! -e /dev/net/tun ]; then
    privileged mkdir -p /dev/net
    privileged mknod /dev/net/tun c 10 200
fi
[ "$(stat -c %a /dev/net/tun)" = 666 ] || privileged chmod 666 /dev/net/tun
privileged env PATH="$PATH" make -s install

# Runs a command as the user, with the environment of a session.
runtime=/run/user/$uid
as_user() {
    local environment=(XDG_RUNTIME_DIR="$runtime" DOCKER_HOST="unix://$runtime/docker.sock" PATH="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if [ "$EUID" = 0 ]; then
        setpriv --reuid "$uid" --regid "$(id -g "$user")" --init-groups --reset-env -- \
            env "${environment[@]}" sh -c 'cd; exec "$@"' sh "$@"
    else
        env -u DOCKER_CONTEXT "${environment[@]}" "$@"
    fi
}

if [ -n "$systemd" ]; then
    # The user's systemd is there from boot on, and stays after logout.
    privileged loginctl enable-linger "$user"
    privileged systemctl start "user@$uid.service"
    as_user systemctl --user daemon-reload
    as_user systemctl --user enable -q --now rootlessd
    # If it ran before: the new one takes the engine over.
    as_user systemctl --user restart rootlessd
else
    # Where all look for it, if no login has made another one.
    [ "$EUID" = 0 ] || [ ! -O "${XDG_RUNTIME_DIR:-}" ] || runtime=$XDG_RUNTIME_DIR
    privileged install -d -m 700 -o "$user" -g "$(id -g "$user")" "$runtime"
    as_user rootlessd --daemonize --replace
fi
as_user rootlessctl start --timeout 2m

say "A container with a published port"
image=$(mktemp -d)
trap 'rm -rf "$image"' EXIT
tests/bed/image.sh "$image/image.tar"
as_user docker load -q <"$image/image.tar"
container=$(as_user docker run -d --init -p 127.0.0.1::80 rootlessd/tiny)
trap 'rm -rf "$image"; as_user docker rm -f "$container" >/dev/null' EXIT
port=$(as_user docker port "$container" 80/tcp)
echo "http://$port says: $(curl -sS --retry 5 --retry-connrefused --max-time 10 "http://$port/")"

say "rootlessctl status"
as_user rootlessctl status

stop="kill \$(cat $runtime/rootlessd/lock)"
if [ -n "$systemd" ]; then
    stop="systemctl --user disable --now rootlessd"
    # As in shells of su and sudo.
    [ "$EUID" != 0 ] && [ -n "${XDG_RUNTIME_DIR:-}" ] || stop="XDG_RUNTIME_DIR=$runtime $stop"
fi
[ "$EUID" != 0 ] || echo "
(as the user $user: su - $user)"
cat <<EOF

To use it:  eval "\$(rootlessctl env)"; docker run …
To look:    rootlessctl status, rootlessctl logs, rootlessctl watch
To stop it: rootlessctl stop, or for good: $stop
EOF
