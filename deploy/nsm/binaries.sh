# The control plane of Network Service Mesh for tests and the demo: built with Go from tests/nsm/mesh, outside the
# tree. To be sourced from the top folder, after say.sh.
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
    local output=$VL3LB_NSM_BIN/$1 begin=$SECONDS
    [[ ! -x $output ]] || return 0
    command -v go >/dev/null ||
        die "there is no Go on this machine, and the control plane of Network Service Mesh is built with it" \
            "install Go 1.26 or newer (https://go.dev/dl); only \"./run demo nsm\" and \"./run test nsm\" need it"
    step "build $1 (the SDK of Network Service Mesh) once, into $VL3LB_NSM_BIN; the first time about a minute"
    mkdir -p "$VL3LB_NSM_BIN"
    # Under another name until it is whole: an interrupted build leaves no half program. No cgo: it runs in any root
    # file system.
    (cd tests/nsm/mesh &&
        CGO_ENABLED=0 nice -n 5 go build -mod=readonly -modfile="$2" -trimpath -ldflags '-s -w' -o "$output.part.$$" .) ||
        die "go could not build $1 (see above)" "check the network: its sources come from Go's module proxy"
    mv "$output.part.$$" "$output"
    note "$(du -h "$output" | cut -f1) in $((SECONDS - begin)) s"
}
