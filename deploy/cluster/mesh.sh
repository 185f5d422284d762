# Network Service Mesh in the cluster: identities and admission webhook beside the API server, and registry, managers
# and forwarders as pods in nsm-system. To be sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # set by cluster.sh, network.sh and the environment

readonly mesh_image=docker.io/library/vl3-lb-mesh:0.1.0
readonly webhook_port=9443

# Once for a cluster.
add_mesh() {
    local n object
    [[ ! -e $run_dir/mesh ]] || return 0
    [[ -x ${VL3LB_NSM_BIN:-}/mesh ]] ||
        die "VL3LB_NSM_BIN names no folder with the control plane of Network Service Mesh" "run it by ./run cluster up nsm"
    step "image: Network Service Mesh"
    make_mesh_image
    for n in "${nodes[@]}"; do load_image "$n" "$run_dir/images/mesh.tar"; done
    if [[ -n ${VL3LB_SPIRE_BIN:-} ]]; then
        step "identities of SPIRE, and the admission webhook of Network Service Mesh"
        start_spire
    else
        step "identities of the tests' authority, and the admission webhook of Network Service Mesh"
        start_agent
    fi
    start_webhook
    step "Network Service Mesh: kubectl apply -k deploy/cluster/nsm"
    kubectl apply -k "$here/nsm" | sed 's/^/    /'
    for object in deployment/registry daemonset/nsmgr daemonset/forwarder; do
        kubectl rollout status "$object" -n nsm-system --timeout=90s >/dev/null ||
            die "$object of Network Service Mesh is not ready" "kubectl logs -n nsm-system $object"
    done
    kubectl get pods -n nsm-system -o wide | sed 's/^/    /'
    touch "$run_dir/mesh"
}

make_mesh_image() {
    local root=$run_dir/images/root
    new_root "$root"
    install -D "$VL3LB_NSM_BIN/mesh" "$root/usr/local/bin/mesh"
    make_image mesh "$mesh_image" "$root" '["/usr/local/bin/mesh"]'
    rm -rf "$root"
}

# The SPIFFE Workload API of each node where SPIRE is not built, at the place where its agent has it.
start_agent() {
    local n sockets=()
    for n in "${nodes[@]}"; do
        sockets+=("$(mesh_folder_of_node "$n")/spire/sockets/agent.sock")
    done
    start agent control "$VL3LB_NSM_BIN/mesh" agent "$(
        cat <<JSON
{
  "sockets": [$(printf '"%s", ' "${sockets[@]}" | sed 's/, $//')],
  "apiServer": {
    "url": "https://$control_address",
    "authority": "$run_dir/conf/ca.crt", "certificate": "$run_dir/conf/admin.crt", "key": "$run_dir/conf/admin.key"
  }
}
JSON
    )"
    within 10 test -S "${sockets[-1]}" || die "the agent does not serve identities" "its log: $run_dir/log/agent.log"
}

start_webhook() {
    make_certificate webhook /CN=webhook "IP:$control_address"
    start webhook control "$VL3LB_NSM_BIN/mesh" webhook "$(
        cat <<JSON
{
  "listenOn": "$control_address:$webhook_port", "image": "$mesh_image",
  "certificate": "$run_dir/conf/webhook.crt", "key": "$run_dir/conf/webhook.key"
}
JSON
    )"
    kubectl apply -f - >/dev/null <<YAML
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata:
  name: networkservicemesh
webhooks:
  - name: webhook.networkservicemesh.io
    admissionReviewVersions: [v1]
    sideEffects: None
    clientConfig:
      url: https://$control_address:$webhook_port
      caBundle: $(base64 -w 0 "$run_dir/conf/ca.crt")
    rules:
      - {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}
    matchConditions:
      - name: annotated
        expression: has(object.metadata.annotations) && 'networkservicemesh.io' in object.metadata.annotations
YAML
}

# The folders that are /run/spire and /var/lib/networkservicemesh of a node.
mesh_folder_of_node() { echo "$run_dir/node$1/mesh"; }

# Both nodes have the machine's files; but each has its own manager and identities. Prints what is to be run in the
# mount namespace of a node before its programs.
separate_mesh_folders() {
    local n=$1 folder
    folder=$(mesh_folder_of_node "$n")
    mkdir -p "$folder"/{spire/sockets,nsm} "${mesh_folders[@]}"
    echo "mount --bind '$folder/spire' /run/spire && mount --bind '$folder/nsm' /var/lib/networkservicemesh"
}
readonly mesh_folders=(/run/spire /var/lib/networkservicemesh)

# Unless something of the machine's own is in them.
remove_mesh_folders() { rmdir "${mesh_folders[@]}" 2>/dev/null || true; }
