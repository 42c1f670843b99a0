#!/usr/bin/env bash
# Adds an OCI index to a layout: index.sh LAYOUT IMAGE TAG
#
# The index names IMAGE twice: once for this machine and, in front of it, once for another
# architecture, so that a client which takes the first entry is found out.
set -euo pipefail

layout=$1
image=$2
tag=$3
case $(uname -m) in
    x86_64) here=amd64 other=arm64 ;;
    aarch64) here=arm64 other=amd64 ;;
    *) echo "index.sh: unknown machine $(uname -m)" >&2; exit 1 ;;
esac

digest_of() { # of the image with that tag, from index.json (one line, written by umoci)
    tr '{' '\n' <"$layout/index.json" | grep -B1 "ref.name\":\"$1\"" |
        grep -o 'sha256:[0-9a-f]*' | head -n 1
}
blob() { echo "$layout/blobs/sha256/${1#sha256:}"; }
store() { # text from standard input; prints its digest
    local file sum
    file=$(mktemp "$layout/blobs/sha256/new.XXXXXX")
    cat >"$file"
    sum=$(sha256sum "$file" | cut -d' ' -f1)
    chmod 0644 "$file"
    mv "$file" "$layout/blobs/sha256/$sum"
    echo "sha256:$sum"
}
size() { stat -c %s "$(blob "$1")"; }
entry() { # DIGEST ARCHITECTURE
    printf '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%s,"platform":{"architecture":"%s","os":"linux"}}' \
        "$1" "$(size "$1")" "$2"
}

manifest=$(digest_of "$image")
# The other architecture's image: the same layer under a configuration of its own.
config=$(grep -o 'sha256:[0-9a-f]*' "$(blob "$manifest")" | head -n 1)
other_config=$(sed "s/\"architecture\":\"$here\"/\"architecture\":\"$other\"/" "$(blob "$config")" | store)
other_manifest=$(sed "s/$config/$other_config/" "$(blob "$manifest")" | store)

index=$(printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s,%s]}' \
    "$(entry "$other_manifest" "$other")" "$(entry "$manifest" "$here")" | store)
sed -i "s#\"manifests\":\[#&{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":\"$index\",\"size\":$(size "$index"),\"annotations\":{\"org.opencontainers.image.ref.name\":\"$tag\"}},#" \
    "$layout/index.json"
