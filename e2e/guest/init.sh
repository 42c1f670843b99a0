#!/bin/bash
# The guest's first process, started by run.sh's kernel: makes the machine ready, runs the command,
# says how it ended and switches the machine off.
#
# The root is the other machine's own tree. It is read from, but whatever is written goes to the disk:
# the tree has no idmapped mounts, no reliable locks and cannot be below an overlay.
set -uo pipefail

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

off() {
    sync -f /mnt/disk 2>/dev/null
    echo o >/proc/sysrq-trigger
    sleep 60
}

# A step that fails is the end: nothing that is run then would mean anything.
must() {
    "$@" || {
        echo "guest: failed: $*" >&2
        off
    }
}

mount_kernel() {
    must mount -t proc proc /proc
    must mount -t sysfs sysfs /sys
    must mount -t cgroup2 cgroup2 /sys/fs/cgroup
    must mount -t securityfs securityfs /sys/kernel/security
    mountpoint -q /dev || must mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/pts /dev/shm /dev/mqueue
    must mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    must mount -t tmpfs tmpfs /dev/shm
    must mount -t mqueue mqueue /dev/mqueue
    ln -sfn /proc/self/fd /dev/fd
    ln -sfn fd/0 /dev/stdin
    ln -sfn fd/1 /dev/stdout
    ln -sfn fd/2 /dev/stderr
}

# The directories that programs write to by their fixed names.
mount_disk() {
    must mount -t tmpfs tmpfs /run
    mkdir -p /run/lock
    must mount -t tmpfs tmpfs /mnt
    mkdir /mnt/disk
    must mount -t ext4 /dev/ubda /mnt/disk
    local dir
    for dir in /var/lib/cni /var/lib/kubelet /var/tmp; do
        mkdir -p "/mnt/disk$dir"
        [ -d "$dir" ] || mkdir -p "$dir"
        must mount --bind "/mnt/disk$dir" "$dir"
    done
    chmod 1777 /mnt/disk/var/tmp
    must mount --make-rshared /
}

load_modules() {
    mkdir -p /run/modules/lib/modules
    ln -s "/usr/lib/uml/modules/$(uname -r)" "/run/modules/lib/modules/$(uname -r)"
    must modprobe -d /run/modules -a overlay veth bridge br_netfilter iptable_nat iptable_filter \
        nf_nat xt_tcpudp xt_comment xt_mark xt_addrtype xt_MASQUERADE xt_conntrack xt_multiport xt_nat \
        ip6table_nat ip6table_filter
    # This kernel has no nat chains of nf_tables.
    must mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi
}

# Only this shell may be moved out of the root group: with the kernel's own threads in it, +cpu fails.
delegate_cgroups() {
    local controller
    mkdir /sys/fs/cgroup/init
    echo $$ >/sys/fs/cgroup/init/cgroup.procs
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        must eval "echo +$controller >/sys/fs/cgroup/cgroup.subtree_control"
    done
}

configure_network() {
    must ip link set lo up
    must sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1
}

# critest's AppArmor specs load their profiles by sudo; we are root.
provide_sudo() {
    command -v sudo >/dev/null && return
    mkdir /run/bin
    printf '#!/bin/sh\nexec "$@"\n' >/run/bin/sudo
    chmod 0755 /run/bin/sudo
}

mount_kernel
mount_disk
load_modules
delegate_cgroups
configure_network
provide_sudo

work=$(grep -o 'guest_work=[^ ]*' /proc/cmdline | cut -d= -f2)
{
    sed -n '/^declare /p' "$work/command"
    echo 'export PATH=$PATH:/run/bin TMPDIR=/var/tmp'
    sed '/^declare /d' "$work/command"
} >/run/command
bash /run/command </dev/null 2>&1
echo $? >"$work/status"
off
