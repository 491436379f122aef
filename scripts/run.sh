#!/bin/bash
# A supervised rootless Docker on this machine, that has run a container. Run it as often as you like.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
. scripts/packages.sh

say() { printf '\n== %s\n' "$*"; }

scripts/check-rust.sh

say "Packages"
need_docker rootlesskit slirp4netns uidmap iptables busybox-static curl
command -v docker >/dev/null || need_packages docker-cli

say "Build"
make -s build

# Rootless Docker is a person's, and root is none: for root, an ordinary user is made.
user=$(id -un)
if [ "$EUID" = 0 ]; then
    user=${ROOTLESSD_USER:-rootless}
    id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
fi
uid=$(id -u "$user")
systemd=
[ ! -d /run/systemd/system ] || systemd=1

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
    if [ "$EUID" = 0 ]; then
        install -d -m 700 -o "$user" -g "$(id -g "$user")" "$runtime"
    elif [ ! -O "$runtime" ]; then
        # What Docker's documentation names where nobody else makes a runtime directory.
        runtime=${XDG_RUNTIME_DIR:-$HOME/.docker/run}
        install -d -m 700 "$runtime"
    fi
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

stop="rootlessctl stop, or for good: "
if [ -n "$systemd" ]; then stop+="systemctl --user disable --now rootlessd"; else stop+="kill \$(cat $runtime/rootlessd/lock)"; fi
[ "$EUID" != 0 ] || echo "
(as the user $user: sudo -u $user env XDG_RUNTIME_DIR=$runtime …)"
cat <<EOF

To use it:  eval "\$(rootlessctl env)"; docker run …
To look:    rootlessctl status, rootlessctl logs, rootlessctl watch
To stop it: $stop
EOF
