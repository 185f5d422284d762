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
readonly download_mib=64

# shellcheck source=deploy/host/say.sh
. "$here/../host/say.sh"
# shellcheck source=deploy/demo/network.sh
. "$here/network.sh"
# shellcheck source=deploy/demo/processes.sh
. "$here/processes.sh"
# shellcheck source=deploy/demo/show.sh
. "$here/show.sh"

main() {
    ((EUID == 0)) || die "the demo makes network namespaces and needs root" "run it by ./run demo"
    exec 9>/run/vl3-lb-demo.lock
    # A killed demo's last command may hold the lock for a few seconds more.
    flock --timeout 6 9 || die "another demo is running" "wait for its end, or stop it with Ctrl-C"
    case $1 in
    up)
        binary=$2 keep=${3:-}
        up
        ;;
    down) take_down ;;
    esac
}

up() {
    local began=$SECONDS
    take_down # of an earlier run: kept, or killed in between
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM
    trap 'finish $?' EXIT

    make_network
    start_servers 1 2 3
    start_balancer 1 2 3
    show_requests
    show_ipv6
    show_changes_under_a_download
    show_state
    step "the demo passed in $((SECONDS - began)) s"
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
    [[ -e $state/download ]] || make_download
    local n
    for n in "$@"; do
        make_member "server-$n" "$((n + 1))"
        start "$state/server-$n.log" "server-$n" python3 "$here/server.py" --name "finance-server-$n" \
            --port 8081 --file "$state/download" --slow-while "$state/slow"
    done
    for n in "$@"; do
        within 10 inside "server-$n" curl -sf --max-time 1 -o /dev/null 127.0.0.1:8081 ||
            die "finance-server-$n does not answer: $(tail -n 3 "$state/server-$n.log")"
        note "finance-server-$n $(address4 "$((n + 1))"):8081"
    done
}

make_download() {
    head -c "${download_mib}M" /dev/urandom >"$state/download"
    download_sum=$(sha256sum <"$state/download")
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

show_requests() {
    step "12 requests: curl -s $service"
    request 12
    local n
    for n in 1 2 3; do
        grep -q "finance-server-$n\$" <<<"$answers" || die "finance-server-$n got none of 12 requests"
    done
    shares
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
    step "a download of $download_mib MiB begins: curl $service/download"
    touch "$state/slow"
    start "$state/curl.log" client curl -sS -4 -D "$state/headers" -o "$state/received" "$service/download"
    local download=$started
    within 5 grep -q '^X-Server' "$state/headers" || die "the download does not begin"
    local from
    from=$(sed -n 's/^X-Server: finance-server-\([0-9]\).*/\1/p' "$state/headers")
    note "it comes from finance-server-$from"

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

    step "meanwhile the download goes on"
    [[ -n $(start_time "$download") ]] || die "the download ended too early: $(<"$state/curl.log")"
    show flows --state established
    rm "$state/slow"
    within 60 has_ended "$download" || die "the download does not end"
    [[ $(sha256sum <"$state/received") == "$download_sum" ]] ||
        die "the download is not what was sent: $(stat -c %s "$state/received") bytes, $(<"$state/curl.log")"
    note "complete, and what was sent: sha256 ${download_sum%% *}"
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

# At every end, the good and the bad.
finish() {
    local status=$1
    set +e # whatever fails now, the rest is still removed
    trap '' HUP INT PIPE TERM
    if ((status > 0 && status < 128)) && [[ -s $balancer_log ]]; then
        note "the end of $balancer_log:"
        tail -n 20 "$balancer_log"
    fi
    if [[ $keep == --keep && $status -le 1 ]]; then
        explain
    else
        step "remove all that was made" 2>/dev/null # the reader may be gone
        take_down
    fi
}

explain() {
    step "the network stays; to enter it:"
    local namespace
    for namespace in $(namespaces); do
        note "ip netns exec $namespace bash"
    done
    note "ip netns exec $prefix-client curl -s $service"
    note "$binary status --socket $socket"
    note "the backends are in $config, the log in $balancer_log"
    note "to remove it: ./run demo --down"
}

take_down() {
    stop_processes
    remove_network
    rm -rf "$state"
}

backend_is() { vl3_lb backends | grep -qE "$(address4 "$(($1 + 1))"):8081 +$2 "; }

main "$@"
