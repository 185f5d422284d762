#!/usr/bin/env bash
# The balancer in a real vL3 network of Network Service Mesh, on one machine. Root only; `./run demo nsm` calls it.
#
#   nsm.sh up BINARY MESH LINK [--keep]   the demo; without --keep all that it made is gone at its end
#   nsm.sh down                           removes what an earlier run left
#
# MESH is the program of tests/nsm/mesh; LINK is the type of the clients' interfaces, veth or tun.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

readonly state=/run/vl3-lb-nsm-demo
readonly balancer_log=$state/vl3-lb.log
# The balancer's default. In its mount namespace it is a folder of the demo.
readonly socket=$state/balancer/admin.sock
readonly service=finance.vl3-lb:8080
prefix=nsmdemo

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
    only_one "./run demo nsm"
    case $1 in
    up)
        binary=$2 mesh=$3 link=$4 keep=${5:-}
        up
        ;;
    down) take_down ;;
    esac
}

play() {
    mkdir -p "$state/balancer"
    start_mesh
    start_client
    start_servers 1 2 3
    start_balancer
    show_requests
    show_changes_under_a_download
    show_state
    [[ $keep == --keep ]] || show_farewell
}

start_mesh() {
    step "Network Service Mesh, SDK v1.13.0: registry, manager, forwarder ($link), vL3 endpoint with DNS"
    # Tokens of a minute: connections refresh every 12 s, so that it happens in the demo.
    start_here "$state/mesh.log" "$mesh" up --dir "$state/mesh" --link "$link" --token-lifetime 60s
    mesh_process=$started
    within 20 mesh_is_ready_or_dead || true
    mesh_is_ready || die "the mesh is not ready: $(tail -n 3 "$state/mesh.log")"
    local name
    for name in registry nsmgr-0 forwarder-0 nse-vl3-0; do
        note "$name $(mesh_get "/parts/$name" '.state | del(.. | nulls) | tojson' | tr -d '"{}')"
    done
}

# start_member NAME [LABEL]: a namespace with a client of the SDK, which is in the vL3 network when this returns.
start_member() {
    local name=$1 label=${2:-}
    ip netns add "$prefix-$name"
    ip -n "$prefix-$name" link set lo up
    mesh_post /parts "$(jq -cn --arg name "$name" --arg netns "/run/netns/$prefix-$name" \
        --arg url "kernel://vl3-lb/nsm-1?$label" \
        '{kind: "client", name: $name, netns: $netns, config: {networkServices: [$url]}}')"
}

start_client() {
    start_member client
    # What the SDK's sidecar does in a pod.
    use_resolver client "$(mesh_get /parts/client '.state.connections[].context.dns_context.configs[0].dns_server_ips[0]')"
    note "client $(member_address client), resolver $(awk '{ print $2 }' "/etc/netns/$prefix-client/resolv.conf")"
}

# start_servers N...: finance-server-N, labelled app=finance, on port 80 of its own namespace.
start_servers() {
    local n
    for n in "$@"; do
        start_member "server-$n" app=finance
        start_server "$n" 80
    done
    for n in "$@"; do
        await_server "$n" 80
        addresses[n]=$(member_address "server-$n")
        note "finance-server-$n ${addresses[n]}:80, app=finance"
    done
}

start_balancer() {
    step "balancer: vl3-lb run, with no file and the predecessor's environment"
    mesh_post /identities/finance
    local environment=(
        NSM_NAME=finance
        POD_NAME=finance
        NODE_NAME=node-0
        NSM_CONNECT_TO="unix://$state/mesh/node-0/nsm.io.sock"
        NSM_NETWORK_SERVICES=kernel://vl3-lb/nsm-1
        NSM_SELECTOR=app:finance
        NSM_PORT=8080
        NSM_TARGET_PORT=80
        NSM_PROTOCOL=tcp
        NSM_MAX_TOKEN_LIFETIME=60s
        SPIFFE_ENDPOINT_SOCKET="unix://$state/mesh/id/finance"
    )
    printf "    ${faint}%s${plain}\n" "${environment[@]}"
    ip netns add "$prefix-lb"
    ip -n "$prefix-lb" link set lo up
    mkdir -p /run/vl3-lb
    # Only this balancer sees the folder of the demo there.
    start "$balancer_log" lb env -i PATH="$PATH" "${environment[@]}" \
        sh -c "mount --bind $state/balancer /run/vl3-lb && exec \"\$0\" run" "$binary"
    balancer=$started
    within 20 balancer_is_ready_or_dead || true
    balancer_is_ready || die "the balancer is not ready"
    within 20 backends_are 3 up || die "not three servers are up: $(vl3_lb backends)"
    show status
}

# While a download is on: a server joins, another one leaves, and the manager is killed and comes back.
show_changes_under_a_download() {
    begin_download
    local leaving=$((from % 3 + 1))

    step "finance-server-4 joins, finance-server-$leaving leaves"
    start_servers 4
    mesh_curl -X DELETE "http://mesh/parts/server-$leaving" >/dev/null
    within 10 backends_are 3 up || die "not three servers are up after 10 s: $(vl3_lb backends)"
    within 10 backend_address_is_gone "$leaving" || die "finance-server-$leaving still gets new connections"
    request 9
    grep -q 'finance-server-4$' <<<"$answers" || die "finance-server-4 got none of 9 requests"
    ! grep -q "finance-server-$leaving\$" <<<"$answers" || die "finance-server-$leaving still gets requests"
    shares

    step "the manager is killed"
    mesh_post /parts/nsmgr-0/kill
    request 3
    show status
    step "and comes back after 2 s"
    sleep 2
    mesh_post /parts/nsmgr-0/start
    within 15 balancer_is_connected || die "the balancer is not connected to the manager after 15 s: $(vl3_lb status)"
    request 3
    show backends

    end_download
}

show_state() {
    step "what happened: vl3-lb events"
    show events
    step "vl3-lb status"
    show status
}

show_farewell() {
    step "the balancer gets SIGTERM: it drains, closes its connection and gives back its name"
    kill "$balancer"
    within 30 has_ended "$balancer" || die "the balancer does not end"
    ! inside client curl -s --max-time 2 "$service" >/dev/null || die "$service still answers"
    note "$service is gone"
}

explain_more() {
    note "curl -s --unix-socket $state/mesh/control http://mesh/state   (tests/nsm/README.md has the controls)"
    note "the logs are $balancer_log and in $state/mesh/log"
}

take_down() {
    stop_processes
    remove_network
    rmdir /run/vl3-lb 2>/dev/null || true # unless another balancer has its socket there
    rm -rf "$state"
}

mesh_curl() { curl -sS --max-time 60 --unix-socket "$state/mesh/control" "$@"; }

# mesh_post PATH [BODY]: a request to the mesh; ends the demo with its error.
mesh_post() {
    local answer error
    answer=$(mesh_curl -X POST "http://mesh$1" ${2:+-d "$2"})
    error=$(jq -r '.error // empty' <<<"$answer")
    [[ -z $error ]] || die "$1: $error"
}

# mesh_get PATH FILTER: a part of the mesh's answer.
mesh_get() { mesh_curl "http://mesh$1" | jq -r "$2"; }

mesh_is_ready() { grep -qx ready "$state/mesh.log"; }
mesh_is_ready_or_dead() { has_ended "$mesh_process" || mesh_is_ready; }

member_address() { ip -n "$prefix-$1" -j -4 addr show nsm-1 | jq -r '.[0].addr_info[0].local'; }

# backends_are COUNT STATE
backends_are() { (($(vl3_lb backends --json | jq --arg state "$2" '[.items[] | select(.state == $state)] | length') == $1)); }

# What is left of it may drain, but is not up.
backend_address_is_gone() {
    vl3_lb backends --json |
        jq -e --arg address "${addresses[$1]}" 'all(.items[]; .state != "up" or (.address | startswith($address + ":") | not))' >/dev/null
}

balancer_is_connected() { vl3_lb status --json | jq -e '.items[0].nsm.state == "connected"' >/dev/null; }

addresses=()
main "$@"
