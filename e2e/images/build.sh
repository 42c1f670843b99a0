#!/usr/bin/env bash
# Makes the test images from Debian's busybox as one OCI layout: build.sh BUSYBOX LAYOUT
#
# Made with umoci so that what crisol pulls was written by somebody else's code.
#
#   busybox   one layer: busybox-static with a symbolic link per applet
#   user      as busybox; USER app, a WORKDIR, ENV, ENTRYPOINT and CMD
#   zstd      as busybox and one file more, so that push.sh finds no compressed copy of the layer
#   index     busybox behind an OCI index, see index.sh
#   layered   three layers: a whiteout, an opaque directory, a hard link, a replaced file
set -euo pipefail

busybox=$1
layout=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# The same input gives the same digests: fixed order, owner and time.
pack() { tar -C "$1" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1700000000 -cf "$2" .; }

base=$work/base
mkdir -p "$base"/{bin,dev,etc,home/app,proc,root,run,sys,usr/bin,var/log}
mkdir -m 1777 "$base"/tmp
install -m 0755 "$busybox" "$base"/bin/busybox
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s /bin/busybox "$base/bin/$applet"
done
cat >"$base"/etc/passwd <<'EOF'
root:x:0:0:root:/root:/bin/sh
app:x:1000:1000:app:/home/app:/bin/sh
EOF
cat >"$base"/etc/group <<'EOF'
root:x:0:
app:x:1000:
logs:x:1500:app
EOF
chown 1000:1000 "$base"/home/app
# Owners matter here, so this layer alone keeps them.
tar -C "$base" --sort=name --numeric-owner --mtime=@1700000000 -cf "$work"/base.tar .

umoci --log=error init --layout "$layout"
umoci --log=error new --image "$layout:busybox"
umoci --log=error raw add-layer --image "$layout:busybox" "$work"/base.tar
umoci --log=error config --image "$layout:busybox" --config.cmd sh \
    --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

umoci --log=error tag --image "$layout:busybox" user
umoci --log=error config --image "$layout:user" --config.user app --config.workingdir /home/app \
    --config.env GREETING=hello --config.entrypoint /bin/echo --config.cmd from --config.cmd image \
    --config.stopsignal SIGUSR1

lower=$work/lower middle=$work/middle upper=$work/upper
mkdir -p "$lower"/data/{kept,hidden,opaque} "$middle"/data/opaque "$upper"/data
echo one >"$lower"/data/kept/one
echo two >"$lower"/data/hidden/two
echo old >"$lower"/data/opaque/old
echo first >"$lower"/data/replaced
ln "$lower"/data/kept/one "$lower"/data/linked
touch "$middle"/data/.wh.hidden "$middle"/data/opaque/.wh..wh..opq
echo new >"$middle"/data/opaque/new
echo second >"$upper"/data/replaced
umoci --log=error tag --image "$layout:busybox" layered
for layer in lower middle upper; do
    pack "${!layer}" "$work/$layer.tar"
    umoci --log=error raw add-layer --image "$layout:layered" "$work/$layer.tar"
done

echo zstd >"$base"/etc/compression
tar -C "$base" --sort=name --numeric-owner --mtime=@1700000000 -cf "$work"/zstd.tar .
umoci --log=error new --image "$layout:zstd"
umoci --log=error raw add-layer --image "$layout:zstd" "$work"/zstd.tar
umoci --log=error config --image "$layout:zstd" --config.cmd sh

"$(dirname "$0")"/index.sh "$layout" busybox index
