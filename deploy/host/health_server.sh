# The gRPC server that health checks are tested with. Source it from the top folder, after say.sh and go.sh.
# shellcheck shell=bash

# Builds it the first time. Sets VL3LB_HEALTH_SERVER to its path. Fails where it is not built and Go is not.
ensure_health_server() {
    local source=tests/health_server sum
    # Another one for every other source.
    sum=$(cat "$source"/main.go "$source"/go.{mod,sum} | sha256sum)
    export VL3LB_HEALTH_SERVER=${XDG_CACHE_HOME:-$HOME/.cache}/vl3-lb/health-server-${sum:0:16}/health_server
    [[ ! -x $VL3LB_HEALTH_SERVER ]] || return 0
    have_go || return 1
    build_go "$source" "$VL3LB_HEALTH_SERVER"
}
