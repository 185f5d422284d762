# The collector of OpenTelemetry, to which the tests have a balancer send. Sourced by run, after say.sh.
# shellcheck shell=bash

# Builds it with Go the first time, which takes a few minutes. Sets VL3LB_COLLECTOR to its path. Fails where Go is not.
ensure_collector() {
    local sum folder begin=$SECONDS
    # Another one for every other source.
    sum=$(cat tests/collector/main.go tests/collector/go.{mod,sum} | sha256sum)
    folder=${XDG_CACHE_HOME:-$HOME/.cache}/vl3-lb/collector-${sum:0:16}
    export VL3LB_COLLECTOR=$folder/collector
    [[ ! -x $VL3LB_COLLECTOR ]] || return 0
    command -v go >/dev/null || return 1
    step "build the collector of OpenTelemetry once, into $folder"
    mkdir -p "$folder"
    # Under another name until it is whole: an interrupted build leaves no half program.
    (cd tests/collector &&
        CGO_ENABLED=0 nice -n 10 go build -mod=readonly -trimpath -ldflags '-s -w' -o "$VL3LB_COLLECTOR.part.$$" .) ||
        die "go could not build the collector (see above)" "check the network: its sources come from Go's module proxy"
    mv "$VL3LB_COLLECTOR.part.$$" "$VL3LB_COLLECTOR"
    note "$(du -h "$VL3LB_COLLECTOR" | cut -f1) in $((SECONDS - begin)) s"
}
