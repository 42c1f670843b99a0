#!/usr/bin/env bash
# Pushes the images of build.sh to a registry that speaks plain HTTP: push.sh LAYOUT HOST:PORT
#
# Besides the images as they are: zstd is recompressed, busybox:docker is a Docker schema 2 manifest.
set -euo pipefail

layout=$1
registry=$2
plain=$(mktemp -d)
trap 'rm -rf "$plain"' EXIT

push() { # SOURCE TAG [skopeo option...]
    local from=$1 to=$2
    shift 2
    skopeo copy --quiet --insecure-policy --dest-tls-verify=false "$@" "$from" \
        "docker://$registry/$to"
}

push "oci:$layout:busybox" busybox:latest
push "oci:$layout:user" user:latest
push "oci:$layout:layered" layered:latest
push "oci:$layout:busybox" busybox:docker --format v2s2
push "oci:$layout:index" busybox:index --all
# Through an uncompressed copy: skopeo passes a compressed layer on as it is.
skopeo copy --quiet --insecure-policy --dest-decompress "oci:$layout:zstd" "dir:$plain"
push "dir:$plain" zstd:latest --dest-compress-format zstd
