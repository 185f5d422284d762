# The gRPC server that health checks are tested with: built with Go from tests/health_server, outside the tree. Sourced by
# run from the top folder, after say.sh.
# shellcheck shell=bash

# Sets VL3LB_HEALTH_SERVER to the path of the program, which is built the first time. Fails where it is not built and Go is
# not.
ensure_health_server() {
    local source=tests/health_server folder sum
    sum=$(cat "$source"/main.go "$source"/go.mod "$source"/go.sum | sha256sum)
    folder=${XDG_CACHE_HOME:-$HOME/.cache}/vl3-lb/health-server-${sum:0:16}
    local output=$folder/health_server
    if [[ ! -x $output ]]; then
        command -v go >/dev/null || return 1
        step "build the gRPC server of the tests once, into $folder"
        mkdir -p "$folder"
        # Under another name until it is whole: an interrupted build leaves no half program.
        (cd "$source" &&
            CGO_ENABLED=0 nice -n 5 go build -mod=readonly -trimpath -ldflags '-s -w' -o "$output.part.$$" .) ||
            die "go could not build $source (see above)" "check the network: its sources come from Go's module proxy"
        mv "$output.part.$$" "$output"
    fi
    export VL3LB_HEALTH_SERVER=$output
}
