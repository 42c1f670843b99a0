#!/usr/bin/env bash
# Pushes the images of build.sh to a registry that speaks plain HTTP, under the names that critest
# asks for without their hosts: push.sh LAYOUT HOST:PORT
set -euo pipefail

layout=$1
registry=$2
case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) echo "push.sh: unknown machine $(uname -m)" >&2; exit 1 ;;
esac

push() { # IMAGE NAME...
    local from=$1 name
    shift
    for name; do
        skopeo copy --quiet --insecure-policy --dest-tls-verify=false "oci:$layout:$from" \
            "docker://$registry/$name"
    done
}

# registry.k8s.io and, for the last, k8s.gcr.io
push busybox e2e-test-images/busybox:1.29-2
push nginx e2e-test-images/nginx:1.14-2
push httpd e2e-test-images/httpd:2.4.39-4
push nonewprivs e2e-test-images/nonewprivs:1.3
push test-pause pause:3.9
# gcr.io
cri=k8s-staging-cri-tools
push hostnet $cri/hostnet-nginx-$arch:latest
push group $cri/test-image-predefined-group:latest
for user in uid username uid-group username-group; do
    push user-$user $cri/test-image-user-$user:latest
done
for image in 1 2 3 latest; do
    push test-$image $cri/test-image-$image:latest
done
push test-tag $cri/test-image-tag:test
push test-all $cri/test-image-tag:all
push test-tags $cri/test-image-tags:{1,2,3}
# public.ecr.aws: what the benchmark of listing asks for, five images
push test-1 docker/library/busybox:1
push test-2 docker/library/busybox:1-glibc
push test-3 docker/library/busybox:1-musl
push test-all docker/library/busybox:1-uclibc
push test-tag docker/library/busybox:1.35.0-glibc
