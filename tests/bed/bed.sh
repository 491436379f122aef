#!/bin/bash
# A bed: a real systemd as PID 1 of a container, on an overlay that is thrown away.
#
# usage: bed.sh boot SUITE NAME [--tree DIR]... [--owner PID]
#                                     returns when the manager of `tester` is up; what is in DIR is copied over it before;
#                                     after the process PID has ended, any `boot` or `clean` stops it
#        bed.sh root NAME CMD...      runs a command as root; input, output and exit status are the command's,
#        bed.sh user NAME CMD...        or as tester; when this process ends, the command gets SIGTERM
#        bed.sh unit NAME CMD...        or as a transient service of tester's manager
#        bed.sh put NAME FILE|DIR PATH [user]
#                                     copies a file to PATH, or what is in DIR into it, as root or as tester
#        bed.sh stock NAME            Docker's own rootless set-up, with Docker's own tool
#        bed.sh reboot NAME           an orderly reboot; what is on its disks stays
#        bed.sh wait NAME BOOT        until boot number BOOT (the first is 1) is done
#        bed.sh log NAME              the end of its journal and of its console
#        bed.sh stop NAME             ends it at once and leaves nothing
#        bed.sh clean [--all]         stops the beds whose owner is gone, or all
#        bed.sh list
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tester=4242
timeout=${ROOTLESSD_BED_TIMEOUT:-60}

# ---- where a bed is ---------------------------------------------------------------------------------------------------

# In `run`, on the disk, is what must outlive its processes. All its mounts are in a mount namespace of its own: they end
# with it, however it ends.
use() {
    name=$1 run=$BED/run/$1
    [[ $name =~ ^[a-z][a-z0-9-]{0,39}$ ]] || die "not a name: $name"
}

# The bed's cgroup, to do in as it likes. Where systemd owns the tree, it has to be asked for one.
cgroup() {
    local root
    root=$(findmnt -nt cgroup2 -o TARGET | head -n 1)
    if [ -d /run/systemd/system ]; then
        echo "$root/system.slice/rootlessd-bed-$name.scope"
    else
        echo "$root/rootlessd-bed-$name"
    fi
}

# The bed's own PID 1, as the outside sees it. It is looked for each time, since a reboot changes it, and by whole files,
# since `read` loses its place in one that changes.
find_leader() {
    local pid one=$'NSpid:[^\n]*\t1\n'
    payload=$(cgroup)/boot-$(<"$run/ctl/boot")/payload
    for pid in $(<"$payload/init.scope/cgroup.procs"); do
        if [[ $(<"/proc/$pid/status") =~ $one ]]; then
            leader=$pid
            return
        fi
    done
    return 1
} 2>/dev/null

# A process that only enters the namespaces has no place in the bed's cgroups: logind and polkit cannot tell whose it is,
# and `stop` would miss it. Its place is where a login's would be, outside all services.
join() {
    find_leader || die "bed $name is not up"
    mkdir -p "$payload/$1"
    echo $BASHPID >"$payload/$1/cgroup.procs"
}

# ---- boot -------------------------------------------------------------------------------------------------------------

# Reads the words of `boot` into its `suite`, `trees` and `owner`, and the name in use.
boot_words() {
    suite=$1
    use "$2"
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
        --tree) trees+=("$(realpath -e "$2")") ;;
        --owner) owner=$2 ;;
        *) die "boot: $1?" ;;
        esac
        shift 2
    done
}

# No other of this name is there any more, and its folder is begun with that one in it.
make_room() {
    clean
    stop
    mkdir -p "$1"
    [ -z "$owner" ] || echo "$owner $(start_time "$owner")" >"$run/owner"
}

boot() {
    local suite trees=() owner='' rootfs image
    boot_words "$@"

    need_packages systemd-container busybox-static
    rootfs=$("$HERE/rootfs.sh" "$suite")
    make_room "$run/ctl"
    mkfifo "$run/ctl/ready"
    image=$BED/image-$(cat "$HERE/image.sh" "$(command -v busybox)" | sha256sum | cut -c1-12).tar
    [ -e "$image" ] || "$HERE/image.sh" "$image"
    cp "$image" "$run/ctl/image.tar"
    modprobe -qa overlay fuse tun 2>/dev/null || true # in there nobody can

    launch "$HERE/bed.sh" keep "$rootfs" "$name" "${trees[@]}"
    wait_boot 1
}

# Starts a command in the bed's cgroup, with mounts of its own.
launch() {
    local launch=(unshare --mount --propagation private "$@")
    if [ -d /run/systemd/system ]; then
        launch=(systemd-run -q --scope --collect --unit="rootlessd-bed-$name" -p Delegate=yes -p TasksMax=infinity "${launch[@]}")
    else
        mkdir "$(cgroup)"
    fi
    setsid "${launch[@]}" </dev/null >"$run/console.log" 2>&1 &
    echo $! >"$run/keeper"
}

# That command begins with this.
prepare() {
    local controller
    cgroup=$(cgroup)
    # No process may stay in a group that hands its controllers on.
    mkdir "$cgroup/keeper"
    echo $$ >"$cgroup/keeper/cgroup.procs"
    for controller in $(<"$cgroup/cgroup.controllers"); do
        echo "+$controller" >"$cgroup/cgroup.subtree_control" || true # the bed does with fewer
    done
    # What systemd-nspawn leaves in /run is the machine's /run otherwise.
    mount -t tmpfs bed /run
}

# What every machine here is for systemd-nspawn. A pure cgroup v2 inside, whatever the machine has; system calls that runc
# and the port grants need.
nspawn() {
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0 exec systemd-nspawn --quiet --machine="$name" \
        --keep-unit --register=no --console=pipe --private-users=no --capability=all \
        --system-call-filter='add_key keyctl bpf' --resolv-conf=off --timezone=off --link-journal=no "$@"
}

# Stays with the bed as long as it lives, and starts the machine again when it reboots.
keep() {
    local rootfs=$1 tree cgroup mem number=0 status=133
    use "$2"
    shift 2
    prepare

    mem=$run/mem
    mkdir "$mem"
    mount -t tmpfs -o mode=755 bed "$mem"
    mkdir "$mem"/{upper,work,root,dev}
    mount -t overlay -o "lowerdir=$rootfs,upperdir=$mem/upper,workdir=$mem/work" bed "$mem/root"
    for tree; do
        # In a chroot, so that the tree's /lib or /var/run goes where the bed's own does.
        tar -C "$tree" --owner=0 --group=0 -c . | chroot "$mem/root" tar -C / -x --keep-directory-symlink --no-overwrite-dir
    done
    tr -d - </proc/sys/kernel/random/uuid >"$mem/root/etc/machine-id"
    echo "$name" >"$mem/root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n' "$name" >"$mem/root/etc/hosts"

    # Docker's overlays cannot lie on an overlay. On a tmpfs they can since Linux 6.6 (user.* attributes).
    local data=$mem/data
    [ "$(printf '%s\n' 6.6 "$(uname -r)" | sort -V | head -n 1)" = 6.6 ] || data=$run/data
    mkdir -p "$data/docker"
    cp -a "$mem/root/home/tester" "$data/tester"
    chown -R $tester:$tester "$data/tester"

    # Of its own, since the machine may lack them or keep them from users.
    mknod -m 666 "$mem/dev/tun" c 10 200
    mknod -m 666 "$mem/dev/fuse" c 10 229

    while [ $status = 133 ]; do # it asks its service manager for a restart; that is this loop
        echo $((++number)) >"$run/ctl/boot"
        mkdir "$cgroup/boot-$number" # in the one before, clients may linger
        status=0
        (
            echo $BASHPID >"$cgroup/boot-$number/cgroup.procs"
            nspawn --boot --directory="$mem/root" --private-network \
                --bind="$mem/dev/tun:/dev/net/tun" --bind="$mem/dev/fuse:/dev/fuse" --bind="$run/ctl:/bed" \
                --bind="$data/tester:/home/tester" --bind="$data/docker:/var/lib/docker"
        ) || status=$?
    done
    echo "the machine ended with status $status"
}

# Reads the numbers of the boots that are done, until one is at least $1.
wait_boot() {
    local number deadline=$((SECONDS + timeout))
    exec 3<>"$run/ctl/ready"
    while [ $SECONDS -le $deadline ]; do
        if read -r -t 1 number <&3; then
            [ "$number" -lt "$1" ] || return 0
        elif [ ! -d "/proc/$(<"$run/keeper")" ]; then
            break
        fi
    done
    tail -n 40 "$run/console.log" >&2
    die "bed $name did not come up"
}

# ---- a command in it --------------------------------------------------------------------------------------------------

enter() {
    exec nsenter --target "$leader" --all --root --wd -- env -i TERM="${TERM:-dumb}" LANG=C.UTF-8 "$@"
}
# What nsenter starts has no parent inside, which pkexec refuses: hence a shell between. When nsenter ends, that shell is
# killed, and the command terminated.
# shellcheck disable=SC2016 # expanded inside
shell=(setpriv --pdeathsig KILL sh -c 'cd; setpriv --pdeathsig TERM -- "$@"; exit $?' sh)

as_root() {
    join user.slice/user-0.slice/bed
    enter HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${shell[@]}" "$@"
}

as_user() {
    join "user.slice/user-$tester.slice/bed"
    enter HOME=/home/tester USER=tester LOGNAME=tester SHELL=/bin/bash PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
        XDG_RUNTIME_DIR=/run/user/$tester DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$tester/bus \
        DOCKER_HOST=unix:///run/user/$tester/docker.sock \
        setpriv --reuid $tester --regid $tester --init-groups --inh-caps=-all "${shell[@]}" "$@"
}

as_unit() {
    # A service's command line has its $ expanded.
    as_user systemd-run --user --quiet --collect --wait --pipe --working-directory=/home/tester -- "${@//\$/\$\$}"
}

put() {
    local from=$1 to=$2 as=as_${3:-root} mode
    mode=$(stat -c %a "$from")
    # shellcheck disable=SC2016 # expanded inside
    if [ -d "$from" ]; then
        tar -C "$from" -c . |
            $as sh -c 'mkdir -p "$1" && tar -C "$1" -x --no-same-owner --keep-directory-symlink' sh "$to"
    else
        $as sh -c 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"' sh "$to" "$mode" <"$from"
    fi
}

# The tool looks for the script in PATH, where Debian does not put it, and for ip_tables in lists of modules, which a bed
# has none of: it sees the machine's kernel, but not its files.
stock() {
    local contrib=/usr/share/docker.io/contrib modules
    modules=/lib/modules/$(uname -r)
    # shellcheck disable=SC2016
    (as_root sh -c 'ln -sf "$1/dockerd-rootless.sh" /usr/bin/ && mkdir -p "$2" && printf "%s.ko\n" ip_tables nf_tables >>"$2/modules.builtin"' \
        sh $contrib "$modules")
    as_user $contrib/dockerd-rootless-setuptool.sh install
}

reboot() {
    local number
    number=$(<"$run/ctl/boot")
    (as_root systemctl reboot)
    wait_boot $((number + 1))
}

log() {
    (as_root journalctl --no-pager --lines 200 --output short-precise) || true
    tail -n 40 "$run/console.log"
}

# ---- its end ----------------------------------------------------------------------------------------------------------

remove_cgroup() {
    [ ! -d "$1" ] || find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
}

stop() {
    local cgroup i
    cgroup=$(cgroup)
    if [ -d "$cgroup" ]; then
        { echo 1 >"$cgroup/cgroup.kill"; } 2>/dev/null || true
        for ((i = 0; i < 1000; i++)); do
            grep -qs 'populated 1' "$cgroup/cgroup.events" || break
            sleep 0.01
        done
        if [ -d /run/systemd/system ]; then
            systemctl stop "rootlessd-bed-$name.scope" 2>/dev/null || true
        fi
        remove_cgroup "$cgroup"
        # Where there is a v1 tree of systemd's, nspawn makes the same path in it.
        remove_cgroup "/sys/fs/cgroup/systemd/${cgroup##*/}"
        [ ! -d "$cgroup" ] || die "bed $name does not end: $cgroup"
    fi
    rm -rf --one-file-system "$run"
}

start_time() {
    sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20
}

# Each bed in turn, without touching the variables of this one.
clean() (
    shopt -s nullglob
    for run in "$BED"/run/*/; do
        use "$(basename "$run")"
        if [ "${1:-}" != --all ]; then
            { read -r pid started <"$run/owner"; } 2>/dev/null || continue
            [ "$(start_time "$pid" 2>/dev/null)" != "$started" ] || continue
        fi
        stop
    done
)

# -----------------------------------------------------------------------------------------------------------------------

[[ ${BASH_SOURCE[0]} = "$0" ]] || return 0 # tests/fresh has machines of its own kind
need_root "$@"
verb=${1:?verb}
shift
case $verb in
boot) boot "$@" ;;
keep) keep "$@" ;;
clean) clean "$@" ;;
list) ls "$BED/run" 2>/dev/null || true ;;
*)
    use "${1:?name}"
    shift
    case $verb in
    root) as_root "$@" ;;
    user) as_user "$@" ;;
    unit) as_unit "$@" ;;
    put) put "$@" ;;
    stock) stock ;;
    reboot) reboot ;;
    wait) wait_boot "$1" ;;
    log) log ;;
    stop) stop ;;
    *) die "$verb?" ;;
    esac
    ;;
esac
