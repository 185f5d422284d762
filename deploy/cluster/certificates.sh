# The cluster's certificate authority, certificates and kubeconfigs. To be sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # $run_dir is set by cluster.sh, the addresses by network.sh

make_certificates() {
    local n
    (
        cd "$run_dir/conf" || exit
        umask 077
        make_key ca
        openssl req -x509 -new -key ca.key -subj /CN=vl3-lb-cluster -days 30 -out ca.crt
        # Signs the tokens of service accounts.
        make_key service-account
    )
    make_certificate api-server /CN=kube-apiserver \
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:$api_address,IP:$control_address,IP:127.0.0.1"
    make_certificate api-server-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
    make_user admin /O=system:masters/CN=admin
    make_user controller-manager /CN=system:kube-controller-manager
    make_user scheduler /CN=system:kube-scheduler
    make_user coredns /CN=system:coredns
    for n in "${nodes[@]}"; do make_user "node$n" "/O=system:nodes/CN=system:node:node$n"; done
}

make_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

# make_certificate NAME SUBJECT [NAMES]: a client certificate; with names and addresses, a server certificate.
make_certificate() {
    local name=$1 subject=$2 extension="keyUsage=digitalSignature"$'\n'"extendedKeyUsage=clientAuth"
    [[ -z ${3:-} ]] || extension="keyUsage=digitalSignature"$'\n'"extendedKeyUsage=serverAuth"$'\n'"subjectAltName=$3"
    (
        cd "$run_dir/conf" || exit
        umask 077
        make_key "$name"
        openssl req -new -key "$name.key" -subj "$subject" |
            openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
                -extfile <(echo "$extension") -out "$name.crt" 2>/dev/null
    ) || die "openssl could not make the certificate of $name"
}

# make_user NAME SUBJECT: a certificate and the kubeconfig NAME.conf.
make_user() {
    make_certificate "$1" "$2"
    cat >"$run_dir/conf/$1.conf" <<YAML
apiVersion: v1
kind: Config
clusters:
  - {name: cluster, cluster: {server: "https://$control_address", certificate-authority: $run_dir/conf/ca.crt}}
users:
  - {name: $1, user: {client-certificate: $run_dir/conf/$1.crt, client-key: $run_dir/conf/$1.key}}
contexts:
  - {name: vl3-lb-cluster, context: {cluster: cluster, user: $1}}
current-context: vl3-lb-cluster
YAML
    chmod 600 "$run_dir/conf/$1.conf"
}
