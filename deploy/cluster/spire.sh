# SPIRE in the cluster, as Network Service Mesh has it: a server beside the API server, an agent for each node, and the
# controller manager, which registers the pods with the label spiffe.io/spiffe-id. To be sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # set by cluster.sh, network.sh, mesh.sh and the environment

readonly trust_domain=k8s.nsm
readonly spire_port=8081

start_spire() {
    local n
    start_spire_server
    for n in "${nodes[@]}"; do start_spire_agent "$n"; done
    start_spire_controller_manager
}

start_spire_server() {
    local folder=$run_dir/spire
    mkdir -p "$folder"
    # The authority of the cluster attests the nodes: their certificates name them.
    cat >"$run_dir/conf/spire-server.conf" <<HCL
server {
    bind_address = "$control_address"
    bind_port = "$spire_port"
    socket_path = "$folder/server.sock"
    trust_domain = "$trust_domain"
    data_dir = "$folder"
    ca_key_type = "rsa-2048"
    default_x509_svid_ttl = "1h"
}
plugins {
    DataStore "sql" {
        plugin_data { database_type = "sqlite3" connection_string = "$folder/server.sqlite3" }
    }
    NodeAttestor "x509pop" {
        plugin_data {
            ca_bundle_path = "$run_dir/conf/ca.crt"
            agent_path_template = "/x509pop/{{ .Subject.CommonName }}"
        }
    }
    KeyManager "memory" { plugin_data {} }
}
HCL
    start spire-server control "$VL3LB_SPIRE_BIN/spire-server" run -config "$run_dir/conf/spire-server.conf"
    within 30 "$VL3LB_SPIRE_BIN/spire-server" healthcheck -socketPath "$folder/server.sock" ||
        die "the SPIRE server is not healthy" "its log: $run_dir/log/spire-server.log"
    "$VL3LB_SPIRE_BIN/spire-server" bundle show -socketPath "$folder/server.sock" >"$run_dir/conf/spire-bundle.crt"
}

# In the namespaces of the machine, where it sees the processes of all pods, and in the network namespace of the node,
# whose kubelet it asks for them.
start_spire_agent() {
    local n=$1 socket
    socket=$(mesh_folder_of_node "$n")/spire/sockets/agent.sock
    make_certificate "spire-agent-$n" "/CN=node$n"
    cat >"$run_dir/conf/spire-agent-$n.conf" <<HCL
agent {
    data_dir = "$run_dir/node$n/spire-agent"
    server_address = "$control_address"
    server_port = "$spire_port"
    socket_path = "$socket"
    trust_bundle_path = "$run_dir/conf/spire-bundle.crt"
    trust_domain = "$trust_domain"
    # A pod that starts asks for its identity within a second.
    experimental { sync_interval = "1s" }
}
plugins {
    NodeAttestor "x509pop" {
        plugin_data {
            private_key_path = "$run_dir/conf/spire-agent-$n.key"
            certificate_path = "$run_dir/conf/spire-agent-$n.crt"
        }
    }
    KeyManager "memory" { plugin_data {} }
    WorkloadAttestor "k8s" {
        plugin_data {
            # A kubelet of the cluster signs its own certificate.
            skip_kubelet_verification = true
            certificate_path = "$run_dir/conf/admin.crt"
            private_key_path = "$run_dir/conf/admin.key"
        }
    }
}
HCL
    start "spire-agent-$n" "node$n" "$VL3LB_SPIRE_BIN/spire-agent" run -config "$run_dir/conf/spire-agent-$n.conf"
    within 30 "$VL3LB_SPIRE_BIN/spire-agent" healthcheck -socketPath "$socket" ||
        die "the SPIRE agent of node$n is not healthy" "its log: $run_dir/log/spire-agent-$n.log"
}

start_spire_controller_manager() {
    kubectl apply -f "$VL3LB_SPIRE_BIN/crd" >/dev/null
    kubectl wait --for=condition=established --timeout=30s crd/clusterspiffeids.spire.spiffe.io >/dev/null
    cat >"$run_dir/conf/spire-controller-manager.yaml" <<YAML
apiVersion: spire.spiffe.io/v1alpha1
kind: ControllerManagerConfig
clusterName: vl3-lb-cluster
clusterDomain: cluster.local
trustDomain: $trust_domain
parentIDTemplate: "spiffe://{{ .TrustDomain }}/spire/agent/x509pop/{{ .NodeMeta.Name }}"
spireServerSocketPath: $run_dir/spire/server.sock
metrics: {bindAddress: "0"}
health: {healthProbeBindAddress: "0"}
leaderElection: {leaderElect: false}
YAML
    # Its webhook needs a pod of the cluster, and only refuses what it cannot use.
    start spire-controller-manager control env ENABLE_WEBHOOKS=false KUBECONFIG="$run_dir/conf/admin.conf" \
        "$VL3LB_SPIRE_BIN/spire-controller-manager" -config "$run_dir/conf/spire-controller-manager.yaml"
    # Network Service Mesh's own: examples/spire/cluster1.
    kubectl apply -f - >/dev/null <<'YAML'
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterSPIFFEID
metadata:
  name: networkservicemesh
spec:
  spiffeIDTemplate: "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/pod/{{ .PodMeta.Name }}"
  podSelector:
    matchLabels:
      spiffe.io/spiffe-id: "true"
YAML
}
