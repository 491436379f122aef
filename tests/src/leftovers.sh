# shellcheck shell=sh
# Prints what of an engine is left, as root of the bed.
run=/run/user/4242
manager=/sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service
as_user() { setpriv --reuid 4242 --regid 4242 --clear-groups env XDG_RUNTIME_DIR=$run "$@"; }

# Processes in the user's units, but for those that are there without an engine.
if [ -d "$manager" ]; then
    find "$manager" -name cgroup.procs | while read -r procs; do
        case $procs in
        */init.scope/* | */dbus.service/* | */rootlessd.service/* | */docker.service/*) ;;
        *) while read -r pid; do echo "process $(ps -o pid=,args= -p "$pid") in $procs"; done <"$procs" ;;
        esac
    done 2>/dev/null
    as_user systemctl --user list-units --all --plain --no-legend '*.scope' | grep -v '^init.scope' | sed 's/^/unit /'
fi
# Zombies, but for a test's own commands, whose parent is outside.
ps -eo stat=,pid=,ppid=,args= | awk '$1 ~ /^Z/ && $3 != 0' | sed 's/^/zombie /'
# Processes that escaped, and mounts that any process still sees.
ps -eo pid=,args= | awk '!/awk/ &&
    /rootlesskit|engine-(shim|init)|containerd|dockerd|docker-proxy|slirp4netns|\/serve|httpd -f/ { print "process " $0 }'
cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -E "$run/(docker|rootlessd|netns)|overlay2?/|/run/\.ro" | sort -u | sed 's/^/mount /'
# Files, and ports.
for file in $run/docker $run/docker.pid $run/dockerd-rootless $run/rootlessd/engine \
    /tmp/rootlesskit* /tmp/rksys* "$run"/runc-process* /tmp/runc-process* "$run"/pty* /tmp/pty*; do
    [ ! -e "$file" ] || find "$file" | sed 's/^/file /'
done
ss -Hlntu | grep 8080 | sed 's/^/port /'
true
