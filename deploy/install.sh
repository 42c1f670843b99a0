#!/bin/sh
# Installs crisol on this host, or below DESTDIR. Can be run again at any time: programs and the unit
# are replaced, a configuration that was changed is kept. Running containers are not touched.
set -eu

usage() {
    cat <<'TEXT'
usage: install.sh [--node] [--bridge] [--no-start]

  --node      also prepare the host for a kubelet: sysctls, modules, the kubelet's drop-in
  --bridge    also install the example network, if there is no CNI configuration yet
  --no-start  do not enable and start the service

environment:
  CRISOL   the daemon   (default: target/release/crisol)
  CONMON   the monitor  (default: the static one of `make`, else target/release/conmon)
  DESTDIR  install below this directory, for packages; implies --no-start
TEXT
}

say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

node=no bridge=no start=yes
for argument; do
    case $argument in
        --node) node=yes ;;
        --bridge) bridge=yes ;;
        --no-start) start=no ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
top=$(dirname -- "$here")
dest=${DESTDIR:-}
if [ -n "$dest" ]; then
    start=no
elif [ "$(id -u)" != 0 ]; then
    die 'only root can install; DESTDIR=/somewhere works without'
fi

daemon=${CRISOL:-$top/target/release/crisol}
monitor=${CONMON:-$top/target/monitor/$(uname -m)-unknown-linux-gnu/monitor/conmon}
if [ -z "${CONMON:-}" ] && [ ! -e "$monitor" ]; then
    monitor=$top/target/release/conmon
fi
for program in "$daemon" "$monitor"; do
    if [ ! -f "$program" ] || [ ! -x "$program" ]; then
        die "no program $program: run make first, or set CRISOL and CONMON"
    fi
done

# put MODE FROM TO: by rename, because a running program cannot be written to, and because somebody
# may read the file meanwhile.
put() {
    mkdir -p -- "$(dirname -- "$dest$3")"
    cp -- "$2" "$dest$3.install-new"
    chmod "$1" "$dest$3.install-new"
    mv -f -- "$dest$3.install-new" "$dest$3"
}

# put_config FROM TO: replaces the file only if nobody changed what was installed before.
put_config() {
    kept=/usr/share/crisol/$(basename -- "$2")
    if [ ! -e "$dest$2" ] || cmp -s -- "$dest$2" "$dest$kept"; then
        put 644 "$1" "$2"
    elif ! cmp -s -- "$1" "$dest$2"; then
        say "$2 was changed and is kept; the new one is $kept"
    fi
    put 644 "$1" "$kept"
}

put 755 "$daemon" /usr/bin/crisol
put 755 "$monitor" /usr/libexec/crisol/conmon
put 644 "$here/crisol.service" /usr/lib/systemd/system/crisol.service
put_config "$here/crisol.toml" /etc/crisol/crisol.toml
mkdir -p -- "$dest/etc/crisol/crisol.d"
put_config "$here/crictl.yaml" /etc/crictl.yaml

if [ "$node" = yes ]; then
    put_config "$here/node/60-crisol-sysctl.conf" /etc/sysctl.d/60-crisol-sysctl.conf
    put_config "$here/node/60-crisol-modules.conf" /etc/modules-load.d/60-crisol-modules.conf
    put_config "$here/node/10-crisol.conf" /etc/kubernetes/kubelet.conf.d/10-crisol.conf
    if [ -z "$dest" ]; then
        while read -r module; do
            case $module in '#'* | '') continue ;; esac
            modprobe -- "$module" 2>/dev/null || say "no module $module, or it is built in"
        done <"$here/node/60-crisol-modules.conf"
        sysctl -q -p /etc/sysctl.d/60-crisol-sysctl.conf || say 'not every sysctl could be set'
    fi
fi

if [ "$bridge" = yes ]; then
    # Two networks in the directory would compete: the first by name wins.
    if [ -z "$(find "$dest/etc/cni/net.d" -name '*.conf*' 2>/dev/null)" ]; then
        put 644 "$top/cni/conf/10-bridge.conflist" /etc/cni/net.d/10-bridge.conflist
    else
        say 'there is a CNI configuration in /etc/cni/net.d already; it is kept'
    fi
fi

if [ -z "$dest" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if [ "$start" = yes ]; then
        systemctl enable -q crisol.service
        systemctl restart crisol.service
    fi
elif [ "$start" = yes ]; then
    say 'systemd is not the init system here; start /usr/bin/crisol by other means'
fi

if [ -z "$dest" ]; then
    # Its findings are advice here: the host may not be complete yet.
    /usr/bin/crisol check || say 'the host is not complete, see above'
fi
say 'finished'
