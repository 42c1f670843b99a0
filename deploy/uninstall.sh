#!/bin/sh
# Removes what install.sh installed. Keeps the configuration and all data, unless --purge is given.
# Can be run again at any time.
set -eu

usage() {
    cat <<'TEXT'
usage: uninstall.sh [--purge]

  --purge  also remove the configuration, images and records; refused while pods are left

environment:
  DESTDIR  uninstall below this directory
TEXT
}

say() { printf 'uninstall: %s\n' "$*"; }
die() { printf 'uninstall: %s\n' "$*" >&2; exit 1; }

purge=no
for argument; do
    case $argument in
        --purge) purge=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

dest=${DESTDIR:-}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ -z "$dest" ] && [ "$(id -u)" != 0 ]; then
    die 'only root can uninstall'
fi

# setting KEY: its value in force, or nothing if the program or its configuration is broken.
setting() {
    [ -x "$dest/usr/bin/crisol" ] || return 0
    { "$dest/usr/bin/crisol" config 2>/dev/null || true; } | sed -n "s/^$1 = \"\\(.*\\)\"\$/\\1/p" | head -n 1
}

root=/var/lib/crisol state=/run/crisol
if [ -z "$dest" ]; then
    found=$(setting root)
    root=${found:-$root}
    found=$(setting state)
    state=${found:-$state}
fi

# has_entries DIR
has_entries() { [ -n "$(ls -A -- "$1" 2>/dev/null)" ]; }

if has_entries "$dest$root/pods" || has_entries "$dest$root/containers"; then
    if [ "$purge" = yes ]; then
        die "pods are left in $root: drain the node, then crictl rmp -fa, then try again"
    fi
    say "pods are left in $root; what runs goes on running without a daemon"
fi

# rm would go through a mount into the volume of a pod.
if [ "$purge" = yes ] &&
    awk -v dir="$dest$state/" 'index($5, dir) == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo
then
    die "something is mounted below $dest$state: reboot or unmount it, then try again"
fi

if [ -z "$dest" ] && [ -d /run/systemd/system ]; then
    systemctl disable -q --now crisol.service 2>/dev/null || true
fi

rm -f -- "$dest/usr/bin/crisol" "$dest/usr/libexec/crisol/conmon" \
    "$dest/usr/lib/systemd/system/crisol.service"
rmdir -- "$dest/usr/libexec/crisol" 2>/dev/null || true
if [ -z "$dest" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi

# remove_config FILE: only if it is as it was installed.
remove_config() {
    if cmp -s -- "$dest$1" "$dest/usr/share/crisol/$(basename -- "$1")"; then
        rm -f -- "$dest$1"
    elif [ -e "$dest$1" ]; then
        say "$1 was changed and is kept"
    fi
}
for file in /etc/crictl.yaml /etc/sysctl.d/60-crisol-sysctl.conf \
    /etc/modules-load.d/60-crisol-modules.conf /etc/kubernetes/kubelet.conf.d/10-crisol.conf; do
    remove_config "$file"
done
network=/etc/cni/net.d/10-bridge.conflist
if cmp -s -- "$here/../cni/conf/10-bridge.conflist" "$dest$network"; then
    rm -f -- "$dest$network"
fi

if [ "$purge" = yes ]; then
    rm -rf -- "$dest/etc/crisol" "$dest/usr/share/crisol"
    # By name, never the whole directory: it is set by the configuration and may hold other things.
    for name in lock identity pods containers rw images cni; do
        rm -rf -- "${dest:?}$root/$name"
    done
    rmdir -- "$dest$root" 2>/dev/null || true
    for name in crisol.sock lock identity pods containers runtimes; do
        rm -rf -- "${dest:?}$state/$name"
    done
    rmdir -- "$dest$state" 2>/dev/null || true
fi
say 'finished'
