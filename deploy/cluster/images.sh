# The cluster's images, made from programs and libraries of this machine; no registry is needed. To be sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # set by cluster.sh

readonly pause_image=docker.io/library/vl3-lb-pause:local
readonly example_image=docker.io/library/vl3-lb-example:0.1.0
readonly balancer_image=docker.io/library/vl3-lb:0.1.0

make_images() {
    local binary=$1 root=$run_dir/images/root
    # The container that keeps a pod's namespaces.
    new_root "$root"
    make_image pause "$pause_image" "$root" '["/bin/sleep", "2147483647"]'
    new_root "$root"
    add_program "$root" "$(command -v curl)" /usr/bin/curl
    add_program "$root" "$(command -v iperf3)" /usr/bin/iperf3
    cp "$here"/../examples/vl3-lb/image/*.sh "$root/usr/bin/"
    make_image example "$example_image" "$root" null
    rm -rf "$root"
    mkdir -p "$root"
    add_program "$root" "$binary" /usr/local/bin/vl3-lb
    make_image balancer "$balancer_image" "$root" '["/usr/local/bin/vl3-lb"]'
    rm -rf "$root"
}

load_images() {
    local n=$1 archive
    for archive in "$run_dir"/images/*.tar; do load_image "$n" "$archive"; done
}

load_image() { inside_ctr "$1" images import "$2" >/dev/null; }

# A root file system with the programs of busybox.
new_root() {
    local root=$1
    rm -rf "$root"
    mkdir -p "$root"/{bin,etc,tmp,usr/bin,www}
    chmod 1777 "$root/tmp"
    cp "$(command -v busybox)" "$root/bin/busybox"
    chroot "$root" /bin/busybox --install -s /bin
}

# add_program ROOT PROGRAM PATH: copies the program and its libraries to the paths where it looks for them.
add_program() {
    local root=$1 program=$2 path=$3 library
    install -D "$program" "$root$path"
    while read -r library; do
        [[ -e $root$library ]] || install -D "$library" "$root$library"
    done < <(ldd "$program" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }')
}

# make_image FILE NAME ROOT ENTRYPOINT: a docker archive with ROOT as its only layer
# (https://github.com/moby/moby/blob/master/image/spec/v1.2.md).
make_image() {
    local name=$2 root=$3 entrypoint=$4 archive=$run_dir/images/$1 layer
    mkdir -p "$archive"
    tar -C "$root" --owner=0 --group=0 -cf "$archive/layer.tar" .
    layer=$(sha256sum "$archive/layer.tar")
    cat >"$archive/config.json" <<JSON
{
  "architecture": "$(dpkg --print-architecture)",
  "os": "linux",
  "config": {"Entrypoint": $entrypoint, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
  "rootfs": {"type": "layers", "diff_ids": ["sha256:${layer%% *}"]}
}
JSON
    echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$name\"], \"Layers\": [\"layer.tar\"]}]" \
        >"$archive/manifest.json"
    tar -C "$archive" -cf "$archive.tar" manifest.json config.json layer.tar
    rm -rf "$archive"
    note "$name, $(du -h "$archive.tar" | cut -f1)"
}
