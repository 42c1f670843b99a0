#!/usr/bin/env bash
# Makes stand-ins for the images that critest names, from Debian's packages alone, as one OCI layout:
# build.sh BUSYBOX LAYOUT
#
#   busybox      busybox-static; what its specs find different in the original is kept so, see base()
#   nginx        Debian's nginx, in the foreground, with /var/run/nginx.pid
#   hostnet      the same on port 12003
#   httpd        busybox' own, which logs the words that a spec looks for
#   nonewprivs   a set-uid program that prints its effective user
#   group        user 1000, who the image puts into group 50000
#   user-*       busybox with the USER that the names say
#   test-*       busybox images that differ in their configuration only
set -euo pipefail

busybox=$1
layout=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# The programs, and every library that they are linked with.
packages=(busybox procps util-linux nginx libc6 libproc2-0 libsystemd0 libcap2 libgcrypt20
    libgpg-error0 liblzma5 liblz4-1 libzstd1 libcrypt1 libpcre2-8-0 libssl3 zlib1g)

tree=$work/tree
fetch() {
    mkdir "$work/packages"
    chmod 0777 "$work" "$work/packages" # apt downloads as its own user
    (cd "$work/packages" && { apt-get download -q "${packages[@]}" ||
        { apt-get update -q && apt-get download -q "${packages[@]}"; }; }) >"$work/packages/log" 2>&1 ||
        { cat "$work/packages/log" >&2; exit 1; }
    for package in "$work"/packages/*.deb; do
        dpkg-deb -x "$package" "$tree"
    done
}

# A program of the packages with its loader and libraries: install_program ROOT PROGRAM TARGET
install_program() {
    local root=$1 program=$2 target=$3 loader library
    install -D -m 0755 "$tree$program" "$root$target"
    loader=$(ls "$tree"/lib/*-linux-gnu/ld-linux-*.so.*)
    install -D -m 0755 "$loader" "$root/$(interpreter "$tree$program")"
    "$loader" --library-path "$(echo "$tree"/lib/*-linux-gnu):$(echo "$tree"/usr/lib/*-linux-gnu)" \
        --list "$tree$program" | awk -v tree="$tree/" 'index($3, tree) == 1 { print $3 }' |
        while read -r library; do
            install -D -m 0755 "$library" "$root/lib/$(basename "$(dirname "$library")")/$(basename "$library")"
        done
}
interpreter() { grep -aom 1 '/lib[0-9]*/ld-linux-[a-z0-9_.-]*' "$1" | head -n 1; }

base() { # ROOT
    local root=$1 applet
    mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sys,usr/bin,var/log}
    mkdir -m 1777 "$root"/tmp
    ln -s ../run "$root"/var/run
    install -m 0755 "$busybox" "$root"/bin/busybox
    "$busybox" --list | while read -r applet; do
        [ "$applet" = busybox ] || ln -s /bin/busybox "$root/bin/$applet"
    done
    # A spec masks /bin/ls: through the link it would mask every applet.
    rm "$root"/bin/{ls,sh}
    install -m 0755 "$busybox" "$root"/bin/ls
    # The static one's shell prefers its own applets to what PATH finds; specs want pgrep and ipcs,
    # which it lacks.
    install_program "$root" /bin/busybox /bin/sh
    install_program "$root" /usr/bin/pgrep /usr/bin/pgrep
    install_program "$root" /usr/bin/ipcs /usr/bin/ipcs
    cat >"$root"/etc/passwd <<'END'
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
END
    cat >"$root"/etc/group <<'END'
root:x:0:
www-data:x:33:
nobody:x:65534:
END
}

nginx_root() { # ROOT PORT
    install_program "$1" /usr/sbin/nginx /usr/sbin/nginx
    mkdir -p "$1"/etc/nginx "$1"/var/lib/nginx "$1"/var/log/nginx "$1"/usr/share/nginx/html
    echo '<h1>Welcome to nginx!</h1>' >"$1"/usr/share/nginx/html/index.html
    cat >"$1"/etc/nginx/nginx.conf <<END
user nobody nobody;
daemon off;
pid /var/run/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
    access_log off;
    server {
        listen $2;
        location / { root /usr/share/nginx/html; index index.html; }
    }
}
END
}

httpd_root() { # ROOT
    mkdir -p "$1"/usr/local/bin "$1"/var/www
    echo '<h1>It works!</h1>' >"$1"/var/www/index.html
    cat >"$1"/usr/local/bin/serve <<'END'
#!/bin/sh
echo "Command line: 'httpd -D FOREGROUND'"
exec httpd -f -p 80 -h /var/www
END
    chmod 0755 "$1"/usr/local/bin/serve
}

group_root() { # ROOT
    mkdir -p "$1"/etc
    cp "$work"/base/etc/{passwd,group} "$1"/etc
    echo 'default-user:x:1000:1000:default-user:/home:/bin/sh' >>"$1"/etc/passwd
    printf 'default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n' >>"$1"/etc/group
}

# The same input gives the same digests: fixed order, owner and time.
layer() { # IMAGE ROOT
    tar -C "$2" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1700000000 -cf "$2.tar" .
    umoci --log=error raw add-layer --image "$layout:$1" "$2.tar"
}
image() { # NAME [umoci config option...]: a copy of busybox with another configuration
    umoci --log=error tag --image "$layout:busybox" "$1"
    umoci --log=error config --image "$layout:$1" "${@:2}"
}

fetch
base "$work"/base
nginx_root "$work"/nginx 80
nginx_root "$work"/hostnet 12003
httpd_root "$work"/httpd
group_root "$work"/group
mkdir -p "$work"/nonewprivs
gcc -static -O1 -o "$work"/nonewprivs/nnp "$here"/nnp.c
chmod 4755 "$work"/nonewprivs/nnp

umoci --log=error init --layout "$layout"
umoci --log=error new --image "$layout:busybox"
layer busybox "$work"/base
umoci --log=error config --image "$layout:busybox" --config.cmd sh \
    --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

for name in nginx hostnet; do
    image $name --config.cmd /usr/sbin/nginx --config.stopsignal SIGTERM
    layer $name "$work/$name"
done
image httpd --config.cmd /usr/local/bin/serve --config.stopsignal SIGTERM
layer httpd "$work"/httpd
image nonewprivs --config.cmd /nnp
layer nonewprivs "$work"/nonewprivs
image group --config.user 1000
layer group "$work"/group
image user-uid --config.user 1002
image user-username --config.user www-data
image user-uid-group --config.user 1003:users
image user-username-group --config.user www-data:100
for name in 1 2 3 latest tag all tags pause; do
    image test-$name --config.label "test=$name"
done
# A server that runs it in every pod wants it to stay.
umoci --log=error config --image "$layout:test-pause" --config.cmd sleep --config.cmd infinity
