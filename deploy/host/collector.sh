# The collector of OpenTelemetry, to which the tests have a balancer send. Source it from the top folder, after say.sh and go.sh.
# shellcheck shell=bash

# Builds it the first time. Sets VL3LB_COLLECTOR to its path. Fails where it is not built and Go is not.
ensure_collector() {
    local source=tests/collector sum
    # Another one for every other source.
    sum=$(cat "$source"/main.go "$source"/go.{mod,sum} | sha256sum)
    export VL3LB_COLLECTOR=${XDG_CACHE_HOME:-$HOME/.cache}/vl3-lb/collector-${sum:0:16}/collector
    [[ ! -x $VL3LB_COLLECTOR ]] || return 0
    have_go || return 1
    build_go "$source" "$VL3LB_COLLECTOR"
}
