#!/usr/bin/env bash
# Makes a machine ready for `make run`, `make test` and `make bench`: setup.sh CACHE
# and, with `guest` as second argument, for what runs in the guest of e2e/guest; with `peer`, for
# comparisons with Debian's containerd. With `criu`, nothing but that.
#
# Idempotent. Installs by package name what is missing and nothing else; builds crictl, critest and a
# current runc from the modules pinned beside this file. What it cannot provide itself it names in
# one line.
set -euo pipefail

cache=$1
here=$(cd "$(dirname "$0")" && pwd)
packages=(gcc libc6-dev openssl runc crun containernetworking-plugins docker-registry skopeo umoci iproute2 iptables
    nftables libseccomp-dev pkg-config strace)
[ "${2:-}" != guest ] || packages+=(user-mode-linux kmod e2fsprogs apparmor procps)

fail() {
    echo "crisol: $1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] ||
    fail "needs root: containers are made with mounts and namespaces; run it with sudo -E or in a root shell"
command -v cargo >/dev/null ||
    fail "needs Rust 1.95 or newer (cargo): get it from https://rustup.rs and put ~/.cargo/bin into PATH"
command -v go >/dev/null ||
    fail "needs Go 1.26 or newer to build crictl, critest and runc: get it from https://go.dev/dl and put its bin into PATH"
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    fail "needs Debian 12 (apt-get): elsewhere install by hand: ${packages[*]} busybox-static"

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# apt's lists may be absent or older than the archive; they are fetched at most once, when needed.
apt() {
    local log=$cache/apt.log
    apt-get "$@" >"$log" 2>&1 || { apt-get update >>"$log" 2>&1 && apt-get "$@" >>"$log" 2>&1; } ||
        fail "apt-get $* failed, see $log"
}

install_packages() {
    local missing=()
    for package in "${packages[@]}"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    echo "installing ${missing[*]}"
    # docker-registry would start as a service on a fixed port; the tests start their own.
    local policy=/usr/sbin/policy-rc.d
    if [ -e $policy ]; then
        DEBIAN_FRONTEND=noninteractive apt install -y --no-install-recommends "${missing[@]}"
    else
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 0755 $policy
        trap "rm -f $policy" EXIT
        DEBIAN_FRONTEND=noninteractive apt install -y --no-install-recommends "${missing[@]}"
        rm -f $policy
        trap - EXIT
    fi
}

# busybox-static conflicts with busybox, which initramfs-tools and others depend on: its program is
# taken out of the package, the package is not installed.
provide_busybox() {
    local to=$cache/bin/busybox
    [ -x "$to" ] && return
    if installed busybox-static; then
        cp "$(dpkg-query -L busybox-static | grep -m 1 '/bin/busybox$')" "$to.new"
    else
        local dir
        dir=$(mktemp -d)
        chmod 0777 "$dir" # apt downloads as its own user
        (cd "$dir" && apt download busybox-static)
        dpkg-deb -x "$dir"/busybox-static_*.deb "$dir/tree"
        cp "$(find "$dir/tree" -path '*/bin/busybox' | head -n 1)" "$to.new"
        rm -rf "$dir"
    fi
    mv "$to.new" "$to"
}

# Not installed, so that nothing of it is started or found by accident.
provide_peer() {
    local dir
    [ -x "$cache/peer/usr/bin/containerd" ] && return
    echo "unpacking containerd"
    dir=$(mktemp -d)
    chmod 0777 "$dir"
    (cd "$dir" && apt download containerd)
    dpkg-deb -x "$dir"/containerd_*.deb "$cache/peer.new"
    rm -rf "$dir"
    mv "$cache/peer.new" "$cache/peer"
}

# Debian 12's criu does not know the vDSO of current kernels; that of the next release does. It is
# unpacked with the libraries that it was built for, not installed, and only where it is needed. A
# kernel that no criu works on is no failure: the tests then look for the reason in the answers.
provide_criu() {
    local to=$cache/criu dir from options names
    [ -x "$to/criu" ] && return
    if command -v criu >/dev/null && criu check >/dev/null 2>&1; then
        mkdir -p "$to"
        ln -sfn "$(command -v criu)" "$to/criu"
        return
    fi
    echo "unpacking criu"
    dir=$(mktemp -d)
    mkdir -p "$dir"/lists/partial "$dir"/cache/archives/partial "$dir"/debs "$dir"/new
    chmod -R 0777 "$dir" # apt downloads as its own user
    from=/etc/apt/sources.list.d/debian.sources
    [ -e "$from" ] || from=/etc/apt/sources.list
    sed 's/bookworm/trixie/g' "$from" >"$dir/next.${from##*.}"
    options=(-o "Dir::Etc::sourcelist=$dir/next.${from##*.}" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache")
    apt "${options[@]}" update
    mapfile -t names < <(apt-cache "${options[@]}" depends --recurse --no-recommends --no-suggests \
        --no-conflicts --no-breaks --no-replaces --no-enhances criu | grep '^[a-z]')
    (cd "$dir/debs" && apt "${options[@]}" download "${names[@]}")
    for package in "$dir"/debs/*.deb; do
        dpkg-deb -x "$package" "$dir/new"
    done
    cat >"$dir/new/criu" <<WRAPPER
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
libraries=\$here/usr/lib/$(uname -m)-linux-gnu
exec "\$libraries"/ld-linux-*.so.* --library-path "\$libraries" "\$here/usr/sbin/criu" "\$@"
WRAPPER
    chmod 0755 "$dir/new" "$dir/new/criu"
    rm -rf "$to"
    mv "$dir/new" "$to"
    rm -rf "$dir"
}

# A program of a Go module, built again only when the pinned version changes:
# provide NAME MODULE-DIRECTORY MODULE VERSION-ARGUMENT BUILD...
# BUILD is called with the version and the file to write, in the module's directory.
provide() {
    local name=$1 dir=$2 module=$3 ask=$4 version present
    shift 4
    version=$(cd "$dir" && go list -mod=readonly -m -f '{{.Version}}' "$module")
    present=$("$cache/bin/$name" "$ask" 2>/dev/null || true)
    grep -qE " v?${version#v}\$" <<<"$present" && return
    echo "building $name $version"
    (cd "$dir" && "$@" "$version" "$cache/bin/$name.new") ||
        fail "building $name failed: is the Go module proxy reachable (go env GOPROXY)?"
    mv "$cache/bin/$name.new" "$cache/bin/$name"
}

build_crictl() {
    CGO_ENABLED=0 go build -mod=readonly -trimpath \
        -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$1" \
        -o "$2" sigs.k8s.io/cri-tools/cmd/crictl
}

build_critest() {
    CGO_ENABLED=0 go test -c -mod=readonly -trimpath \
        -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$1" \
        -o "$2" sigs.k8s.io/cri-tools/cmd/critest
}

# Debian's runc lacks what a current one has: id-mapped mounts, `runc features`.
build_runc() {
    go build -mod=readonly -trimpath -buildmode=pie -tags seccomp,urfave_cli_no_docs \
        -ldflags '-s -w' -o "$2" github.com/opencontainers/runc
}

# Small, and Go itself knows whether it has to be built again.
build_nri_plugin() {
    (cd "$here" && CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags '-s -w' \
        -o "$cache/bin/nriplugin" ./nriplugin) ||
        fail "building nriplugin failed: is the Go module proxy reachable (go env GOPROXY)?"
}

# crun 1.8 refuses to start on cgroup v1 when the kernel has hugetlb there and nobody mounted it.
mount_hugetlb() {
    [ -d /sys/fs/cgroup/memory ] || return 0 # cgroup v2
    grep -q '^hugetlb' /proc/cgroups || return 0
    mountpoint -q /sys/fs/cgroup/hugetlb && return 0
    # On a hybrid host the controller may belong to the v2 hierarchy; then there is nothing to mount.
    mkdir -p /sys/fs/cgroup/hugetlb
    mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb 2>/dev/null ||
        rmdir /sys/fs/cgroup/hugetlb
}

mkdir -p "$cache/bin"
cache=$(cd "$cache" && pwd)
if [ "${2:-}" = criu ]; then
    provide_criu
    exit
fi
install_packages
provide_busybox
# Without it checkpoints are refused, and tested to be.
"$0" "$cache" criu || echo "crisol: no criu from the next release, see $cache/apt.log" >&2
provide crictl "$here" sigs.k8s.io/cri-tools --version build_crictl
provide critest "$here" sigs.k8s.io/cri-tools -version build_critest
provide runc "$here/runc" github.com/opencontainers/runc --version build_runc
build_nri_plugin
mount_hugetlb
[ "${2:-}" != peer ] || provide_peer
