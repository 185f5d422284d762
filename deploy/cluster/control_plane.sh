# etcd, the API server, the controllers, the scheduler and DNS, all in the namespace "control". To be sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # set by cluster.sh, network.sh and the environment

start_control_plane() {
    start_etcd
    start_api_server
    start kube-controller-manager control "$VL3LB_CLUSTER_BIN/kube-controller-manager" \
        --kubeconfig="$run_dir/conf/controller-manager.conf" \
        --authentication-kubeconfig="$run_dir/conf/controller-manager.conf" \
        --authorization-kubeconfig="$run_dir/conf/controller-manager.conf" \
        --root-ca-file="$run_dir/conf/ca.crt" \
        --service-account-private-key-file="$run_dir/conf/service-account.key" \
        --use-service-account-credentials \
        --node-monitor-grace-period=12s --node-monitor-period=2s \
        --leader-elect=false --cert-dir="$run_dir/conf/controller-manager" \
        --flex-volume-plugin-dir="$data_dir/volume-plugins"
    start kube-scheduler control "$VL3LB_CLUSTER_BIN/kube-scheduler" \
        --kubeconfig="$run_dir/conf/scheduler.conf" --leader-elect=false
    start_dns
}

start_etcd() {
    # Its data does not outlive the cluster, so waiting for the disk would gain nothing.
    start etcd control "$VL3LB_CLUSTER_BIN/etcd" --data-dir="$data_dir/etcd" --unsafe-no-fsync --log-level=warn \
        --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
        --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
        --initial-cluster=default=http://127.0.0.1:2380
}

start_api_server() {
    local conf=$run_dir/conf
    # Port 443, so that its service address works without kube-proxy.
    start kube-apiserver control "$VL3LB_CLUSTER_BIN/kube-apiserver" \
        --advertise-address="$control_address" --secure-port=443 \
        --etcd-servers=http://127.0.0.1:2379 \
        --service-cluster-ip-range="$service_range" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged \
        --client-ca-file="$conf/ca.crt" \
        --tls-cert-file="$conf/api-server.crt" --tls-private-key-file="$conf/api-server.key" \
        --kubelet-client-certificate="$conf/api-server-kubelet.crt" \
        --kubelet-client-key="$conf/api-server-kubelet.key" \
        --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$conf/service-account.key" \
        --service-account-signing-key-file="$conf/service-account.key"
    within 60 control_kubectl get --raw /readyz ||
        die "the API server is not ready" "its log: $run_dir/log/kube-apiserver.log"
    note "API server https://$control_address"
}

start_dns() {
    cat >"$run_dir/conf/Corefile" <<COREFILE
.:53 {
    bind $dns_address
    errors
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $run_dir/conf/coredns.conf
        ttl 1
    }
}
COREFILE
    control_kubectl apply -f "$here/dns.yaml" >/dev/null
    start coredns control "$VL3LB_CLUSTER_BIN/coredns" -conf "$run_dir/conf/Corefile"
    note "cluster DNS $dns_address"
}

control_kubectl() {
    inside control "$VL3LB_CLUSTER_BIN/kubectl" --kubeconfig "$run_dir/conf/admin.conf" "$@" 9>&-
}
