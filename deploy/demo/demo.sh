#!/usr/bin/env bash
# A vL3 network of namespaces, the balancer in it, and what a client sees. Root only; `./run demo` calls it.
#
#   demo.sh up BINARY [--keep]   the demo; without --keep all that it made is gone at its end
#   demo.sh down                 removes what an earlier run left
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

readonly state=/run/vl3-lb-demo
readonly config=$state/vl3-lb.yaml
readonly balancer_log=$state/vl3-lb.log
readonly socket=$state/admin.sock
readonly service=finance.vl3-lb:8080
readonly balancer_host=103 client_host=100

# shellcheck source=deploy/host/say.sh
. "$here/../host/say.sh"
# shellcheck source=deploy/demo/network.sh
. "$here/network.sh"
# shellcheck source=deploy/demo/processes.sh
. "$here/processes.sh"
# shellcheck source=deploy/demo/show.sh
. "$here/show.sh"
# shellcheck source=deploy/demo/session.sh
. "$here/session.sh"
# shellcheck source=deploy/demo/download.sh
. "$here/download.sh"

main() {
    only_one "./run demo"
    case $1 in
    up)
        binary=$2 keep=${3:-}
        up
        ;;
    down) take_down ;;
    esac
}

play() {
    make_network
    start_servers 1 2 3
    start_balancer 1 2 3
    show_requests
    show_ipv6
    show_changes_under_a_download
    show_state
}

make_network() {
    step "network: client, three servers and balancer around a router"
    mkdir -p "$state"
    make_router
    make_member client "$client_host"
    make_member lb "$balancer_host"
    use_resolver client "$(address4 "$balancer_host")"
    note "client $(address4 "$client_host"), balancer $(address4 "$balancer_host")"
}

# start_servers N...: finance-server-N on port 8081 of its own namespace.
start_servers() {
    local n
    for n in "$@"; do
        make_member "server-$n" "$((n + 1))"
        start_server "$n" 8081
    done
    for n in "$@"; do
        await_server "$n" 8081
        note "finance-server-$n $(address4 "$((n + 1))"):8081"
    done
}

# start_balancer N...: with these servers as backends.
start_balancer() {
    step "balancer: vl3-lb run --config $config"
    use_backends "$@"
    start "$balancer_log" lb "$binary" run --config "$config"
    balancer=$started
    within 20 balancer_is_ready_or_dead || true
    balancer_is_ready || die "the balancer is not ready"
    show status
}

# use_backends N...: replaces the configuration, which the balancer watches.
use_backends() {
    local n
    {
        cat <<YAML
interface: nsm-1
discovery: static
services:
  - name: finance
    protocol: TCP
    port: 8080
    targetPort: 8081
    scheduler: round-robin
    drain: 60s
    backends:
YAML
        for n in "$@"; do
            echo "      - {address: $(address4 "$((n + 1))")}"
            [[ $ipv6 == no ]] || echo "      - {address: \"$(address6 "$((n + 1))")\"}"
        done
        cat <<YAML
dns: {zone: vl3-lb, listen: "53"}
admin: {listen: "127.0.0.1:9090", socket: $socket}
YAML
    } >"$config.new"
    mv "$config.new" "$config"
}

show_ipv6() {
    if [[ $ipv6 == no ]]; then
        note "IPv6 is off on this machine"
        return
    fi
    step "the same over IPv6: curl -6 -s $service"
    request 3 -6
}

# The backend that serves a download is taken out, and the download goes on.
show_changes_under_a_download() {
    begin_download

    step "finance-server-4 is added to $config"
    start_servers 4
    use_backends 1 2 3 4
    within 5 backend_is 4 up || die "finance-server-4 is in the file, but not up after 5 s"
    request 8
    grep -q 'finance-server-4$' <<<"$answers" || die "finance-server-4 got none of 8 requests"
    shares

    step "finance-server-$from, which serves the download, is removed from it"
    local rest=()
    read -ra rest < <(echo 1 2 3 4 | sed "s/$from//")
    use_backends "${rest[@]}"
    within 5 backend_is "$from" draining || die "finance-server-$from is not draining after 5 s"
    request 6
    ! grep -q "finance-server-$from\$" <<<"$answers" || die "finance-server-$from still gets new requests"
    shares
    show backends

    end_download
}

show_state() {
    step "vl3-lb services"
    show services
    step "metrics: curl 127.0.0.1:9090/metrics"
    inside lb curl -sf --max-time 5 127.0.0.1:9090/metrics >"$state/metrics" || die "no metrics"
    awk '
        $2 == 0 { next }
        /^vl3lb_(snapshot_generation|flow_table_entries|service_flows_opened_total)/ { print "    " $0 }
        /^vl3lb_service_(packets|bytes)_total/ { print "    " $0 }
        /^vl3lb_backend_flows_opened_total/ { print "    " $0 }
        /^vl3lb_(xsk_)?drop_packets_total/ { print "    " $0; drops = 1 }
        END { if (!drops) print "    no drops" }' "$state/metrics"
}

explain_more() {
    note "the backends are in $config, the log in $balancer_log"
}

take_down() {
    stop_processes
    remove_network
    rm -rf "$state"
}

backend_is() { vl3_lb backends | grep -qE "$(address4 "$(($1 + 1))"):8081 +$2 "; }

main "$@"
