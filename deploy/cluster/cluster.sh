#!/usr/bin/env bash
# A Kubernetes cluster on this machine with the example of deploy/examples/vl3-lb: control plane and two nodes, each in
# its own network namespace. Needs root; called by `./run cluster` and the tests.
#
#   cluster.sh up BINARY [--bare|--mesh]   starts the cluster with this vl3-lb; --bare: without the example; --mesh: with
#                                   Network Service Mesh instead of the example
#   cluster.sh mesh                 adds Network Service Mesh, unless it is there
#   cluster.sh down                 removes the cluster, also after a start that was killed
#   cluster.sh status               shows nodes and pods
#   cluster.sh kubelet N stop|start, api-server stop|start   injects faults, for tests and experiments
#
# The environment variable VL3LB_CLUSTER_BIN is the folder with the programs of Kubernetes, VL3LB_NSM_BIN that of Network
# Service Mesh, and VL3LB_SPIRE_BIN that of SPIRE, if it is to give the identities.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Files of the running programs, on disk instead of in memory.
readonly run_dir=/run/vl3-lb-cluster
readonly data_dir=/var/lib/vl3-lb-cluster
readonly nodes=(1 2)

# shellcheck source=deploy/host/say.sh
. "$here/../host/say.sh"
# shellcheck source=deploy/cluster/network.sh
. "$here/network.sh"
# shellcheck source=deploy/cluster/processes.sh
. "$here/processes.sh"
# shellcheck source=deploy/cluster/certificates.sh
. "$here/certificates.sh"
# shellcheck source=deploy/cluster/control_plane.sh
. "$here/control_plane.sh"
# shellcheck source=deploy/cluster/node.sh
. "$here/node.sh"
# shellcheck source=deploy/cluster/images.sh
. "$here/images.sh"
# shellcheck source=deploy/cluster/mesh.sh
. "$here/mesh.sh"
# shellcheck source=deploy/cluster/spire.sh
. "$here/spire.sh"

main() {
    ((EUID == 0)) || die "the cluster makes network namespaces and containers, and needs root" \
        "run it by ./run cluster"
    exec 9>/run/vl3-lb-cluster.lock
    flock --timeout 30 9 || die "another cluster command is running" "wait until it ends"
    case $1 in
    up) up "$2" "${3:-}" ;;
    down)
        step "remove the cluster"
        take_down
        ;;
    mesh)
        is_up || die "the cluster is down" "./run cluster up starts it"
        add_mesh
        ;;
    status) status ;;
    kubelet)
        case $3 in
        stop) stop_process "kubelet-$2" ;;
        start) start_kubelet "$2" ;;
        esac
        ;;
    api-server)
        case $2 in
        stop) stop_process kube-apiserver ;;
        start) start_api_server ;;
        esac
        ;;
    *) die "unknown command: cluster.sh $1" ;;
    esac
}

up() {
    local binary=$1 content=$2 began=$SECONDS n
    [[ -x ${VL3LB_CLUSTER_BIN:-}/kubelet ]] ||
        die "VL3LB_CLUSTER_BIN is not a folder with the programs of Kubernetes" "use ./run cluster"
    if is_up; then
        die "the cluster is up already" "./run cluster down removes it"
    fi
    take_down # what a killed one left
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM
    trap 'give_up $?' EXIT

    step "network: control plane and ${#nodes[@]} nodes on one bridge"
    make_folders
    make_network
    step "control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, coredns"
    make_certificates
    start_control_plane
    step "images: vl3-lb and the example's"
    make_images "$binary"
    step "nodes: containerd and kubelet"
    for n in "${nodes[@]}"; do start_containerd "$n"; done
    for n in "${nodes[@]}"; do
        load_images "$n"
        start_kubelet "$n"
    done
    write_kubectl
    for n in "${nodes[@]}"; do
        within 60 kubectl wait --for=condition=ready "node/node$n" --timeout=60s ||
            die "node$n is not ready" "its log: $run_dir/log/kubelet-$n.log"
        note "node$n ready: pods in $(pod_range "$n")"
    done
    case $content in
    '') apply_example ;;
    --mesh) add_mesh ;;
    esac
    touch "$run_dir/up"
    trap - EXIT
    explain "$((SECONDS - began))"
}

apply_example() {
    step "the example: kubectl apply -k deploy/examples/vl3-lb"
    kubectl apply -k "$here/../examples/vl3-lb" | sed 's/^/    /'
    # A wait for pods that are not there yet fails at once.
    within 30 has_pod -l type=vl3-client -n ns-vl3-lb || die "no pod of the example is made"
    kubectl wait --for=condition=ready --timeout=90s pod -l type=vl3-client -n ns-vl3-lb | sed 's/^/    /'
}

has_pod() { [[ -n $(kubectl get pods --output name "$@") ]]; }

explain() {
    step "the cluster is up after $1 s; in another terminal:"
    note "export PATH=$run_dir/bin:\$PATH"
    note "kubectl get pods -A -o wide"
    if [[ -e $run_dir/mesh ]]; then
        note "kubectl apply -k deploy/examples/vl3-lb-nsm"
        note "kubectl wait --for=condition=ready --timeout=2m pod -l type=vl3-client -n ns-vl3-lb"
        note "kubectl exec deployments/finance-client -n ns-vl3-lb -- curl -s finance.vl3-lb:8080 | grep \"Hello! I'm finance-server\""
        note "kubectl exec deployments/vl3-lb -n ns-vl3-lb -- vl3-lb status"
        note "kubectl delete ns ns-vl3-lb"
    else
        note "kubectl exec deployments/finance-client -n ns-vl3-lb -- curl -s finance.vl3-lb:8080"
        note "kubectl scale deployment/finance-server --replicas 6 -n ns-vl3-lb"
        note "kubectl exec daemonsets/vl3-lb -n ns-vl3-lb -- vl3-lb backends"
    fi
    note "logs are in $run_dir/log; to remove it: ./run cluster down"
}

status() {
    if ! is_up; then
        step "the cluster is down"
        note "./run cluster up starts it"
        return
    fi
    step "the cluster is up"
    note "export PATH=$run_dir/bin:\$PATH"
    kubectl get nodes
    kubectl get pods -A -o wide
}

is_up() { [[ -e $run_dir/up ]]; }

# Cleans up after a failed or interrupted start.
give_up() {
    set +e # whatever fails now, the rest is still removed
    trap '' HUP INT PIPE TERM
    if (($1 < 128)); then
        step "remove the cluster; the logs are kept in $failed_logs" 2>/dev/null
        rm -rf "$failed_logs"
        cp -r "$run_dir/log" "$failed_logs"
    else
        step "remove the cluster" 2>/dev/null
    fi
    take_down
}
readonly failed_logs=/tmp/vl3-lb-cluster-logs

make_folders() {
    mkdir -p "$run_dir"/{bin,conf,log,pids,images} "$data_dir"
    make_cgroups
}

# The order matters: first the programs that start others, then the others, then their network.
take_down() {
    stop_processes
    unmount_below "$run_dir" "$data_dir"
    remove_container_traces
    remove_pod_namespaces
    remove_network
    remove_cgroups
    restore_kernel_settings
    rm -rf "$run_dir" "$data_dir"
    remove_mesh_folders
}

# kubectl for users: it enters the network namespace of the API server.
write_kubectl() {
    cat >"$run_dir/bin/kubectl" <<SCRIPT
#!/bin/sh
# The API server is reachable from this network namespace only.
[ "\$(id -u)" = 0 ] || exec sudo "\$0" "\$@"
exec nsenter --net=/run/netns/$prefix-control "$VL3LB_CLUSTER_BIN/kubectl" --kubeconfig "\${KUBECONFIG:-$run_dir/conf/admin.conf}" "\$@"
SCRIPT
    chmod +x "$run_dir/bin/kubectl"
}

kubectl() { "$run_dir/bin/kubectl" "$@" 9>&-; }

# within SECONDS COMMAND...: repeats the command five times a second until it succeeds.
within() {
    local end=$((SECONDS + $1))
    shift
    # A separate process, because the redirection must not silence the cleanup on Ctrl-C.
    until ("$@") &>/dev/null; do
        ((SECONDS < end)) || return
        sleep 0.2
    done
}

main "$@"
