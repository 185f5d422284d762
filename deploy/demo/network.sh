# The demo's vL3 network: a router, which plays the vL3 endpoint, and clients of the network, each with an interface
# nsm-1. To be sourced.
#
#   vl3demo-client   172.16.1.100 --+
#   vl3demo-lb       172.16.1.103 --+-- vl3demo-router 172.16.1.1
#   vl3demo-server-N 172.16.1.N+1 --+
#
# IPv6 is 2001:db8:1::HOST, with the same last number.
# shellcheck shell=bash

: "${prefix:=vl3demo}"
readonly prefix

# Set by make_router: yes, or no if IPv6 is disabled in the kernel.
ipv6=no

address4() { echo "172.16.1.$1"; }
address6() { echo "2001:db8:1::$1"; }

# inside NAME COMMAND...: runs a command in a client's namespace.
inside() {
    local name=$1
    shift
    ip netns exec "$prefix-$name" "$@"
}

make_router() {
    ip netns add "$prefix-router"
    local router=(ip -n "$prefix-router")
    "${router[@]}" link set lo up
    # Multicast snooping would lose the first packets of neighbour discovery.
    "${router[@]}" link add vl3 type bridge mcast_snooping 0
    "${router[@]}" addr add "$(address4 1)/24" dev vl3
    if "${router[@]}" addr add "$(address6 1)/64" dev vl3 nodad 2>/dev/null; then
        ipv6=yes
    fi
    "${router[@]}" link set vl3 up
}

# make_member NAME HOST: a namespace with an interface nsm-1; HOST is the last number of its addresses.
make_member() {
    local name=$1 host=$2
    ip netns add "$prefix-$name"
    local member=(ip -n "$prefix-$name")
    "${member[@]}" link set lo up
    "${member[@]}" link add nsm-1 type veth peer name "$name" netns "$prefix-router"
    ip -n "$prefix-router" link set "$name" master vl3 up
    "${member[@]}" addr add "$(address4 "$host")/24" dev nsm-1
    [[ $ipv6 == no ]] || "${member[@]}" addr add "$(address6 "$host")/64" dev nsm-1 nodad
    "${member[@]}" link set nsm-1 up
    "${member[@]}" route add default via "$(address4 1)"
}

# use_resolver NAME SERVER: the files that `ip netns exec` mounts over /etc.
use_resolver() {
    local etc=/etc/netns/$prefix-$1
    mkdir -p "$etc"
    echo "nameserver $2" >"$etc/resolv.conf"
    echo "hosts: files dns" >"$etc/nsswitch.conf"
    # Prefer IPv4 for names with addresses of both families.
    [[ ! -e /etc/gai.conf ]] || echo "precedence ::ffff:0:0/96 100" >"$etc/gai.conf"
}

# The existing namespaces of the demo, including those of earlier runs.
namespaces() {
    ip netns list | awk -v prefix="$prefix-" 'index($1, prefix) == 1 { print $1 }' | sort
}

remove_network() {
    local namespace
    for namespace in $(namespaces); do
        ip netns delete "$namespace"
        rm -rf "/etc/netns/${namespace:?}"
    done
    rmdir /etc/netns 2>/dev/null || true # unless others use it
}
