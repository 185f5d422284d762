# The cluster's network, entirely in network namespaces of its own. To be sourced.
#
#   vl3cluster-control  10.200.0.1, also 10.96.0.1 (the API server) and 10.96.0.10 (DNS) --+
#   vl3cluster-node1    10.200.0.11, pods in 10.244.1.0/24 -------------------------------+-- bridge "cluster"
#   vl3cluster-node2    10.200.0.12, pods in 10.244.2.0/24 -------------------------------+   in control
#
# There is no kube-proxy: only the two service addresses above exist.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # $nodes is set by cluster.sh, which also uses what is set here

readonly prefix=vl3cluster
readonly control_address=10.200.0.1
readonly service_range=10.96.0.0/16 api_address=10.96.0.1 dns_address=10.96.0.10

node_address() { echo "10.200.0.$((10 + $1))"; }
pod_range() { echo "10.244.$1.0/24"; }

# inside NAME COMMAND...: runs the command in the network namespace. `ip netns exec` would also remount /sys, which
# hides the cgroups from containerd.
inside() {
    local name=$1
    shift
    nsenter --net="/run/netns/$prefix-$name" "$@"
}

make_network() {
    local control=(ip -n "$prefix-control") n
    ip netns add "$prefix-control"
    "${control[@]}" link set lo up
    "${control[@]}" link add cluster type bridge
    "${control[@]}" addr add "$control_address/24" dev cluster
    "${control[@]}" link set cluster up
    "${control[@]}" addr add "$api_address/32" dev lo
    "${control[@]}" addr add "$dns_address/32" dev lo
    allow_forwarding control
    for n in "${nodes[@]}"; do make_node_network "$n"; done
}

make_node_network() {
    local n=$1 other node=(ip -n "$prefix-node$1")
    ip netns add "$prefix-node$n"
    "${node[@]}" link set lo up
    "${node[@]}" link add eth0 type veth peer name "node$n" netns "$prefix-control"
    ip -n "$prefix-control" link set "node$n" master cluster up
    "${node[@]}" addr add "$(node_address "$n")/24" dev eth0
    "${node[@]}" link set eth0 up
    "${node[@]}" route add default via "$control_address"
    ip -n "$prefix-control" route add "$(pod_range "$n")" via "$(node_address "$n")"
    for other in "${nodes[@]}"; do
        [[ $other == "$n" ]] || "${node[@]}" route add "$(pod_range "$other")" via "$(node_address "$other")"
    done
    allow_forwarding "node$n"
}

allow_forwarding() { inside "$1" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'; }

# Removes the network namespaces of pods, which the records of the CNI plugins name.
remove_pod_namespaces() {
    local records=/var/lib/cni/results record container namespace
    for record in "$records/$prefix"-node*; do
        [[ -e $record ]] || continue
        container=${record##*-node[0-9]-}
        container=${container%-eth0}
        namespace=$(sed -nE 's#.*"sandbox":"[^"]*/(cni-[^"/]*)".*#\1#p' "$record")
        rm -f "$record" "$records/cni-loopback-$container-lo"
        [[ -z $namespace ]] || ip netns delete "$namespace" 2>/dev/null || true # already gone
    done
    rmdir -p --ignore-fail-on-non-empty "$records" 2>/dev/null || true # not there
}

remove_network() {
    local namespace
    for namespace in $(ip netns list | awk -v prefix="$prefix-" 'index($1, prefix) == 1 { print $1 }'); do
        ip netns delete "$namespace"
    done
}
