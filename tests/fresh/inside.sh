#!/bin/bash
# usage: inside.sh WHO [WITH]    in the fresh machine, as its root: does it, and ends the machine
exec >/fresh/out 2>&1 </dev/null
set -uo pipefail
who=$1 with=${2:-}
TIMEFORMAT='==== that took %0R s'
path=/usr/local/bin:/usr/bin:/bin

# A command line as whoever it is.
as() {
    case $who in
    root) su -l root -c "$1" ;;
    login) su -l ada -c "$1" ;;
    made) su -l rootless -c "$1" ;;
    plain) setpriv --reuid ada --regid ada --init-groups env -i HOME=/home/ada USER=ada PATH=$path:/opt/rust/bin bash -c "$1" ;;
    esac
}

rootful() {
    docker ps --no-trunc --format '{{.ID}} {{.Status}}' | cut -d' ' -f1,2
    systemctl show -P MainPID -P UnitFileState docker.service docker.socket containerd.service
}

main() {
    local before
    if [ "$with" = rootful ]; then
        apt-get -qq update && apt-get -qq -y install docker.io docker-cli busybox-static >/dev/null 2>&1 || return
        /src/tests/bed/image.sh /tmp/image.tar && docker load -q -i /tmp/image.tar && docker run -d rootlessd/tiny || return
        before=$(rootful)
    fi
    echo "==== make run, as $who"
    time as 'cd /src && make run' || return
    echo "==== once more"
    time as 'cd /src && make run' || return
    echo "==== what is there then"
    # What the last lines tell to do, in a new shell of the user's.
    [ "$who" != root ] || who=made
    # shellcheck disable=SC2016 # expanded by the user's shell
    as 'eval "$(rootlessctl env)" && rootlessctl status && docker ps && rootlessctl start &&
        docker info --format "{{.CgroupDriver}}" >/tmp/driver' || return
    [ ! -d /run/systemd/system ] || grep -x systemd /tmp/driver || return
    if [ "$with" = rootful ]; then
        [ "$(rootful)" = "$before" ] || { echo "the rootful Docker is not as it was: $(rootful), and was $before"; return 1; }
    else
        [ ! -e /run/docker.sock ] || { echo "a rootful Docker runs"; return 1; }
    fi
}

main
echo $? >/fresh/status
[ ! -e /fresh/keep ] || sleep infinity
[ ! -d /run/systemd/system ] || systemctl poweroff
