#!/bin/bash
# usage: image.sh FILE    writes a tiny image (busybox, 2 MB) for `docker load`, called rootlessd/tiny
#
# Its command is /serve: a page on port $PORT (80), and an answer to SIGTERM that shows in the log and in /data.
# The same busybox gives the same bytes, hence the same image ID.
set -euo pipefail
umask 022
out=${1:?file}
busybox=$(command -v busybox || true)
if [ -z "$busybox" ] || grep -qa /ld-linux "$busybox"; then
    echo "image.sh: needs the package busybox-static" >&2
    exit 1
fi

work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{root/{bin,etc,tmp,www},image}
cp "$busybox" "$work/root/bin/busybox"
for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$work/root/bin/$applet"; done
echo 'root:x:0:0:root:/:/bin/sh' >"$work/root/etc/passwd"
echo 'hello from a container' >"$work/root/www/index.html"
chmod 1777 "$work/root/tmp"
# PID 1 of a container is not ended by a signal that it does not catch.
cat >"$work/root/serve" <<'SERVE'
#!/bin/sh
stop() {
    echo "got SIG$1"
    [ ! -d /data ] || echo "got SIG$1" >>/data/signals
    exit 0
}
trap 'stop TERM' TERM
trap 'stop INT' INT
httpd -f -p "${PORT:-80}" -h /www &
echo serving
wait
SERVE
chmod 755 "$work/root/serve"

pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" .; }
pack "$work/root" "$work/image/layer.tar"
layer=$(sha256sum <"$work/image/layer.tar" | cut -d' ' -f1)
arch=$(dpkg --print-architecture)
cat >"$work/image/config.json" <<JSON
{"architecture":"$arch","os":"linux","created":"1970-01-01T00:00:00Z",
"config":{"Env":["PATH=/bin"],"Cmd":["/serve"],"ExposedPorts":{"80/tcp":{}}},
"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},
"history":[{"created":"1970-01-01T00:00:00Z","created_by":"image.sh"}]}
JSON
echo '[{"Config":"config.json","RepoTags":["rootlessd/tiny:latest"],"Layers":["layer.tar"]}]' >"$work/image/manifest.json"
pack "$work/image" "$work/image.tar"
mv "$work/image.tar" "$out"
