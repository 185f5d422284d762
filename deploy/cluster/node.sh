# A node: containerd and kubelet in a network namespace. To be sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # set by cluster.sh, network.sh and the environment

readonly cni_plugins=/usr/lib/cni
readonly kubelet_plugins=/var/lib/kubelet/device-plugins

containerd_socket() { echo "$run_dir/node$1/containerd/containerd.sock"; }

start_containerd() {
    local n=$1 conf=$run_dir/conf/node$1
    mkdir -p "$conf/cni" "$run_dir/node$n" "$data_dir/node$n"
    cat >"$conf/cni/10-pods.conflist" <<JSON
{
  "cniVersion": "1.0.0",
  "name": "$prefix-node$n",
  "plugins": [{
    "type": "bridge",
    "bridge": "pods",
    "isGateway": true,
    "ipam": {
      "type": "host-local",
      "dataDir": "$data_dir/node$n/addresses",
      "ranges": [[{"subnet": "$(pod_range "$n")"}]],
      "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}
JSON
    cat >"$conf/containerd.toml" <<TOML
version = 2
root = "$data_dir/node$n/containerd"
state = "$run_dir/node$n/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "$(containerd_socket "$n")"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$pause_image"
  # On some machines even root lacks CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$cni_plugins"
    conf_dir = "$conf/cni"
TOML
    # A mount namespace of its own, which sees what is mounted outside of it, but not the other way round.
    # shellcheck disable=SC2016 # the inner shell expands $0
    start "containerd-$n" "node$n" unshare --mount --propagation slave \
        sh -c "$(separate_mesh_folders "$n")"' && exec containerd --config "$0"' "$conf/containerd.toml"
    within 30 inside_ctr "$n" version || die "containerd of node$n does not answer" "its log: $run_dir/log/containerd-$n.log"
}

inside_ctr() {
    local n=$1
    shift
    ctr --address "$(containerd_socket "$n")" --namespace k8s.io "$@" 9>&-
}

start_kubelet() {
    local n=$1 conf=$run_dir/conf/node$1
    [[ -e $data_dir/kernel-settings ]] || keep_kernel_settings
    cat >"$conf/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $run_dir/conf/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup/node$n
clusterDNS: [$dns_address]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$(containerd_socket "$n")
# Disk and memory are shared with other programs of the machine, whose use must not evict pods.
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
# The time for a change of a ConfigMap to reach its pods.
syncFrequency: 2s
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 2s
podLogsDir: $data_dir/node$n/logs
registryPullQPS: 0
resolvConf: ""
volumePluginDir: $data_dir/node$n/volume-plugins
YAML
    # In the mount namespace of its containerd.
    start "kubelet-$n" "node$n" nsenter --mount="/proc/$(<"$run_dir/pids/containerd-$n")/ns/mnt" \
        "$VL3LB_CLUSTER_BIN/kubelet" \
        --config="$conf/kubelet.yaml" --kubeconfig="$run_dir/conf/node$n.conf" \
        --cert-dir="$conf" --root-dir="$data_dir/node$n/kubelet" \
        --hostname-override="node$n" --node-ip="$(node_address "$n")"
}

# Removes files of containerd, its shims and kubelet outside the cluster's folders.
remove_container_traces() {
    local bundle container socket
    for bundle in "$run_dir"/node*/containerd/io.containerd.runtime.v2.task/k8s.io/*/; do
        [[ -d $bundle ]] || continue
        container=$(basename "$bundle")
        socket=$(cat "$bundle/address" 2>/dev/null) || true
        [[ $socket != unix:///run/containerd/s/* ]] || rm -f "${socket#unix://}"
        rm -rf "/run/containerd/runc/k8s.io/$container"
    done
    rmdir /run/containerd/{s,runc/k8s.io,runc,} 2>/dev/null || true # unless others use them
    find /var/log/containers -lname "$data_dir/*" -delete 2>/dev/null || true
    rmdir /var/log/containers 2>/dev/null || true
    # No flag sets the path of kubelet's socket. Another kubelet of this machine may be listening there.
    [[ -n $(ss -Hxl src "$kubelet_plugins/kubelet.sock") ]] || rm -f "$kubelet_plugins/kubelet.sock"
    rmdir -p --ignore-fail-on-non-empty "$kubelet_plugins" 2>/dev/null || true # not there
}
