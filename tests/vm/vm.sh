#!/bin/bash
# A virtual machine: a Debian with a kernel of its own, on a disk whose changes are thrown away.
#
# usage: vm.sh boot SUITE NAME [--can-sleep] [--tree DIR]... [--owner PID]
#                                    returns when it runs again, frozen as it was after a boot; what is in DIR is copied
#                                    over it; after the process PID has ended, any `boot` or `clean` stops it
#        vm.sh root NAME CMD...      runs a command as root; input, output and exit status are the command's,
#        vm.sh user NAME CMD...        or as tester; it goes on when this process ends, without input and output
#        vm.sh put NAME FILE|DIR PATH [user]
#                                    copies a file to PATH, or what is in DIR into it, as root or as tester
#        vm.sh reboot NAME           an orderly reboot; what is on its disk stays
#        vm.sh cut NAME              cuts its power, and gives it back: what was not on its disk is lost
#        vm.sh sleep NAME SECONDS    suspends it to its memory for so long, if it was booted so that it can; once, since
#                                    QEMU wakes it at once from the next
#        vm.sh log NAME              the end of its journal and of its console
#        vm.sh stop NAME             ends it at once and leaves nothing
#        vm.sh clean [--all]         stops the machines whose owner is gone, or all
#        vm.sh list
# shellcheck disable=SC2031 # `clean`, in bed.sh, has a shell of its own
set -euo pipefail
VM_HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What is not said anew here is as for a bed.
# shellcheck source=tests/bed/bed.sh
. "$VM_HERE/../bed/bed.sh"

BED=${ROOTLESSD_VM:-/var/cache/rootlessd-vm}
timeout=${ROOTLESSD_VM_TIMEOUT:-300}

# ---- QEMU -------------------------------------------------------------------------------------------------------------

# start GUEST on|off [ARG]...: with the disk's changes thrown away, or kept. The kernel has what makes it fast without
# hardware's help; the network has nobody in it but this machine's end of ssh.
# QEMU 7.2 has a processor wake from a suspend with bits in its flags that come from nowhere, now and then, with which it
# hangs: not seen without SMM and with one thread for all processors, which is why one that is to sleep has that.
start() {
    local guest=$1 throw=$2 threads=${threads:-multi}
    shift 2
    TMPDIR=$run qemu-system-x86_64 -name "$run" -machine q35,smm=off -accel "tcg,thread=$threads,tb-size=512" -cpu qemu64 -smp 2 -m 2048 \
        -nodefaults -no-user-config -display none \
        -kernel "$guest/kernel" -initrd "$guest/initrd" \
        -append "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 mitigations=off nowatchdog tsc=reliable no_timer_check no5lvl random.trust_cpu=on systemd.show_status=false" \
        -drive "if=none,id=disk,format=raw,file=$guest/disk,snapshot=$throw,cache=unsafe,discard=unmap" -device virtio-blk-pci,drive=disk \
        -netdev user,id=net,restrict=on,net=198.51.100.0/24,host=198.51.100.254,hostfwd=tcp:127.0.0.1:0-198.51.100.1:22 \
        -device virtio-net-pci,netdev=net -device virtio-rng-pci \
        -serial "file:$run/console" -serial "file:$run/boots" \
        -monitor "unix:$run/monitor,server=on,wait=off" -pidfile "$run/pid" -daemonize "$@"
    until [ -s "$run/port" ]; do
        monitor 0.3 'info usernet' | sed -n 's/.*HOST_FORWARD\] *[0-9]* *127\.0\.0\.1 *\([0-9]*\).*/\1/p' >"$run/port"
    done
    cp "$guest/key" "$run/key"
}

# Has QEMU's monitor do each of these, and prints what it says until it has said nothing for so long.
monitor() {
    local quiet=$1
    shift
    printf '%s\n' "$@" | socat -t "$quiet" - "UNIX-CONNECT:$run/monitor"
}

# Ends it, if it is one of ours.
end() {
    local pid
    hang_up
    pid=$(cat "$run/pid" 2>/dev/null) || return 0
    if grep -qsF "$run" "/proc/$pid/cmdline"; then
        kill -KILL "$pid"
        tail --pid="$pid" -f /dev/null
    fi
}

# Waits for the end of boot number $1, of which the guest writes a line.
wait_boots() {
    read -r -t "$timeout" _ < <(tail -n "+$1" --pid=$$ -f "$run/boots") && return
    tail -n 40 "$run/console" >&2
    die "the guest did not come up: $run"
}

# ---- a command in it --------------------------------------------------------------------------------------------------

# A connection takes seconds, hence one for all commands; it stays for as long as the guest.
ssh_as() {
    local user=$1
    shift
    exec ssh -F none -i "$run/key" -p "$(<"$run/port")" -o LogLevel=ERROR -o BatchMode=yes -o ConnectTimeout=60 \
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o ControlMaster=auto -o "ControlPath=$run/ssh-$user" -o ControlPersist=yes "$user@127.0.0.1" "$@"
}

hang_up() {
    local user
    for user in root tester; do
        [ ! -S "$run/ssh-$user" ] || ssh -F none -O exit -o "ControlPath=$run/ssh-$user" 127.0.0.1 2>/dev/null || true
    done
}

# ssh hands one line to a shell.
as_root() {
    ssh_as root "cd; ${*@Q}"
}

as_user() {
    local runtime=/run/user/4242
    ssh_as tester "cd; export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 XDG_RUNTIME_DIR=$runtime
        export DBUS_SESSION_BUS_ADDRESS=unix:path=$runtime/bus DOCKER_HOST=unix://$runtime/docker.sock; ${*@Q}"
}

# ---- its life ---------------------------------------------------------------------------------------------------------

boot() {
    local suite trees=() owner='' guest tree threads=''
    if [ "${3-}" = --can-sleep ]; then
        threads=single
        set -- "$1" "$2" "${@:4}"
    fi
    boot_words "$@"
    guest=$("$VM_HERE/guest.sh" "$suite")
    make_room "$run"
    start "$guest" on -incoming "exec:zstd -dcq $guest/state"
    (as_root date -s "@$(date +%s.%N)") >/dev/null
    [ ${#trees[@]} = 0 ] && return
    for tree in "${trees[@]}"; do
        tar -C "$tree" --owner=0 --group=0 -c . | as_root tar -C / -x --keep-directory-symlink --no-overwrite-dir
    done
    # What a boot would read.
    as_root sh -c 'systemctl daemon-reload && systemctl reload dbus &&
        systemctl --user -M tester@ daemon-reload && systemctl --user -M tester@ reload dbus'
}

reboot() {
    local boots
    boots=$(wc -l <"$run/boots")
    (as_root systemctl reboot) || true # the connection ends with it
    wait_boots $((boots + 1))
    hang_up
}

power_cut() {
    local boots
    hang_up
    boots=$(wc -l <"$run/boots")
    monitor 0.3 system_reset >/dev/null
    wait_boots $((boots + 1))
}

# As with any suspend, what runs in it is stopped, its processors are off, and its devices start anew. Its own clock
# could wake it, but that is one more device which has to be well.
asleep() {
    local seconds=$1 sleeper
    (as_root sh -c 'echo mem >/sys/power/state') &
    sleeper=$!
    until [[ $(monitor 0.3 'info status') == *suspended* ]]; do
        kill -0 $sleeper 2>/dev/null || die "$run does not go to sleep"
    done
    sleep "$seconds"
    monitor 0.3 system_wakeup >/dev/null
    timeout "$timeout" tail --pid=$sleeper -f /dev/null || die "$run does not wake"
    wait $sleeper
}

stop() {
    [ ! -d "$run" ] || end
    rm -rf --one-file-system "$run"
}

log() {
    (as_root journalctl --no-pager --lines 300 --output short-precise) || true
    tail -n 40 "$run/console"
}

# -----------------------------------------------------------------------------------------------------------------------

[[ ${BASH_SOURCE[0]} = "$0" ]] || return 0 # guest.sh boots one, too
need_root "$@"
verb=${1:?verb}
shift
case $verb in
boot) boot "$@" ;;
clean) clean "$@" ;;
list) ls "$BED/run" 2>/dev/null || true ;;
*)
    use "${1:?name}"
    shift
    case $verb in
    root) as_root "$@" ;;
    user) as_user "$@" ;;
    put) put "$@" ;;
    reboot) reboot ;;
    cut) power_cut ;;
    sleep) asleep "$@" ;;
    log) log ;;
    stop) stop ;;
    *) die "$verb?" ;;
    esac
    ;;
esac
