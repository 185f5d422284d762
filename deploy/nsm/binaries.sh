# The control plane of Network Service Mesh for tests, demo and cluster: built with Go from tests/nsm/mesh, outside
# the tree. And SPIRE, as a second source of identities. To be sourced from the top folder, after say.sh and go.sh.
# shellcheck shell=bash

readonly nsm_cache=${XDG_CACHE_HOME:-$HOME/.cache}/vl3-lb/nsm

# Builds what is missing. Sets VL3LB_NSM_BIN to the folder of the programs: mesh, and mesh-sdk-v1.14, the same with the
# next version of the SDK.
ensure_mesh() {
    VL3LB_NSM_BIN=$(mesh_folder)
    export VL3LB_NSM_BIN
    ensure_mesh_program mesh go.mod
    ensure_mesh_program mesh-sdk-v1.14 sdk-v1.14.mod
}

# Whether all is there already, so that nothing needs Go.
have_mesh() {
    local folder
    folder=$(mesh_folder)
    [[ -x $folder/mesh && -x $folder/mesh-sdk-v1.14 ]]
}

# Another one for every other source.
mesh_folder() {
    local sum
    sum=$(cd tests/nsm/mesh && find . -name '*.go' -o -name '*.mod' -o -name '*.sum' | LC_ALL=C sort |
        xargs sha256sum | sha256sum)
    echo "$nsm_cache/mesh-${sum:0:16}"
}

# ensure_mesh_program NAME MODFILE
ensure_mesh_program() {
    local output=$VL3LB_NSM_BIN/$1
    [[ ! -x $output ]] || return 0
    have_go ||
        die "there is no Go on this machine, and the control plane of Network Service Mesh is built with it" \
            "install Go 1.26 or newer (https://go.dev/dl); only \"./run demo nsm\", \"./run cluster\" and the tests with them need it"
    build_go tests/nsm/mesh "$output" -modfile="$2"
}

# Builds SPIRE, which takes twelve minutes. Sets VL3LB_SPIRE_BIN to the folder of spire-agent, spire-server and
# spire-controller-manager, and of the last one's custom resources, crd.
ensure_spire() {
    use_spire
    ensure_spire_program spire-agent spire github.com/spiffe/spire/cmd/spire-agent
    ensure_spire_program spire-server spire github.com/spiffe/spire/cmd/spire-server
    ensure_spire_program spire-controller-manager spire-controller-manager \
        github.com/spiffe/spire-controller-manager/cmd
    ensure_spire_resources
}

# Whether it is built. Tests with it and the cluster use it then; everything else has the mesh's own authority.
have_spire() {
    local folder
    folder=$(spire_folder)
    [[ -x $folder/spire-agent && -x $folder/spire-server && -x $folder/spire-controller-manager && -d $folder/crd ]]
}

use_spire() {
    VL3LB_SPIRE_BIN=$(spire_folder)
    export VL3LB_SPIRE_BIN
}

# Another one for other versions.
spire_folder() {
    local sum
    sum=$(cat deploy/nsm/spire{,-controller-manager}/go.{mod,sum} | sha256sum)
    echo "$nsm_cache/spire-${sum:0:16}"
}

# ensure_spire_program NAME MODULE PACKAGE: MODULE is a folder of deploy/nsm.
ensure_spire_program() {
    local output=$VL3LB_SPIRE_BIN/$1 module=deploy/nsm/$2 package=$3 begin=$SECONDS
    [[ ! -x $output ]] || return 0
    command -v go >/dev/null ||
        die "there is no Go on this machine, and SPIRE is built with it" "install Go 1.26 or newer (https://go.dev/dl)"
    step "build $1 ($(sed -n "s#^require github.com/spiffe/$2 ##p" "$module/go.mod")) once, into $VL3LB_SPIRE_BIN"
    mkdir -p "$VL3LB_SPIRE_BIN"
    # With cgo: the server's database is SQLite.
    (cd "$module" &&
        CGO_ENABLED=1 nice -n 10 go build -mod=readonly -trimpath -ldflags '-s -w' -o "$output.part.$$" "$package") ||
        die "go could not build $1 (see above)" "check the network: its sources come from Go's module proxy"
    mv "$output.part.$$" "$output"
    note "$(du -h "$output" | cut -f1) in $((SECONDS - begin)) s"
}

# The custom resources of the controller manager, as its module has them.
ensure_spire_resources() {
    local output=$VL3LB_SPIRE_BIN/crd module=github.com/spiffe/spire-controller-manager folder
    [[ ! -d $output ]] || return 0
    folder=$(cd deploy/nsm/spire-controller-manager && go list -mod=readonly -m -f '{{.Dir}}' "$module") ||
        die "go does not find the module $module (see above)"
    rm -rf "$output.part"
    install -D -m 0644 -t "$output.part" "$folder"/config/crd/bases/*.yaml
    mv "$output.part" "$output"
}
