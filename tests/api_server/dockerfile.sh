#!/usr/bin/env bash
# dockerfile.sh FOLDER IMAGE BINARY: builds IMAGE (vl3-lb or vl3-perf) by deploy/Dockerfile with buildah in FOLDER,
# without a registry, and prints the labels and the files of the image and what its entry point says to --version.
#
# The image to build in is a stand-in: its apt-get does nothing, its cargo takes BINARY, which was built outside, and its
# cargo-cyclonedx writes a list of one crate. jq is real; dpkg-query knows one package.
# All else is the Dockerfile's own: what is copied into the build, what of it into the image, and how it starts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../deploy/cluster" && pwd)
readonly folder=$1 image=$2 binary=$3
readonly run_dir=$folder # of images.sh

# shellcheck source=deploy/host/say.sh
. "$here/../host/say.sh"
# shellcheck source=deploy/cluster/images.sh
. "$here/images.sh"

main() {
    trap 'rm -rf "$folder/storage" "$folder/run"' EXIT
    printf '[network]\nnetwork_config_dir = "%s"\n' "$folder/networks" >"$folder/containers.conf"
    make_builder "$folder/root"
    cd "$here/../.."
    local target=()
    [[ $image == vl3-lb ]] || target=(--target "${image#vl3-}")
    store bud --quiet --isolation chroot --build-arg BUILD_IMAGE=localhost/builder --build-arg VL3LB_REVISION=0123abc \
        -f deploy/Dockerfile "${target[@]}" -t vl3-lb:test . >&2
    store inspect --type image --format \
        "{{range \$name, \$value := .OCIv1.Config.Labels}}{{\$name}}={{\$value}}{{\"\n\"}}{{end}}" localhost/vl3-lb:test
    local container mounted
    container=$(store from localhost/vl3-lb:test)
    mounted=$(store mount "$container")
    (cd "$mounted" && find . -type f -o -type l | sort)
    jq --raw-output '"sbom=" + ([.components[].purl] | join(" "))' "$mounted/usr/share/doc/$image/sbom.cdx.json"
    store run --isolation chroot "$container" -- "$image" --version
    store umount "$container" >/dev/null
    store rm "$container" >/dev/null
}

make_builder() {
    local root=$1 container
    new_root "$root"
    mkdir -p "$root/prebuilt"
    cp "$(command -v ldd)" "$root/usr/bin/ldd"
    add_program "$root" "$(command -v bash)" /bin/bash
    add_program "$root" "$(command -v strip)" /usr/bin/strip
    add_program "$root" "$(command -v jq)" /usr/bin/jq
    add_program "$root" "$binary" "/prebuilt/$image"
    printf '#!/bin/sh\n' >"$root/usr/bin/apt-get"
    cat >"$root/usr/bin/dpkg-query" <<'SCRIPT'
#!/bin/sh
case $1 in
--search) echo "libstandin: $2" ;;
--show) printf 'libstandin\t1.0-2\tamd64\n' ;;
esac
SCRIPT
    cat >"$root/usr/bin/cargo" <<'SCRIPT'
#!/bin/sh
set -e
case $1 in
install) [ "$2 $3 $4 $5" = "--locked --root /usr/local cargo-cyclonedx@0.5.9" ] && exit ;;
metadata)
    echo '{"packages": [{"name": "vl3lb-control", "manifest_path": "/src/control/Cargo.toml"},
        {"name": "vl3lb-perf", "manifest_path": "/src/perf/Cargo.toml"}]}'
    exit
    ;;
cyclonedx)
    while [ "$1" != --override-filename ]; do shift; done
    for member in control perf; do
        echo '{"bomFormat": "CycloneDX", "specVersion": "1.5", "components": [{"name": "aya", "purl": "pkg:cargo/aya"}]}' \
            >"$member/$2.json"
    done
    exit
    ;;
esac
[ "$VL3LB_REVISION" = 0123abc ] && [ -e Cargo.lock ] && [ -e control/src/main.rs ] && [ -e perf/src/main.rs ]
mkdir -p target/release
cp /prebuilt/* target/release/
SCRIPT
    chmod +x "$root"/usr/bin/{apt-get,cargo,dpkg-query}
    container=$(store from scratch)
    store copy --quiet "$container" "$root" / >/dev/null
    store commit --quiet "$container" localhost/builder >/dev/null
    store rm "$container" >/dev/null
}

# Nothing is mounted with vfs, so nothing is left to unmount. Networks are not used, but buildah makes the folder of
# their configurations.
store() {
    CONTAINERS_CONF=$folder/containers.conf \
        buildah --root "$folder/storage" --runroot "$folder/run" --storage-driver vfs "$@"
}

main
