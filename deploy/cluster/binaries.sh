# Builds the cluster's programs that Debian lacks or has in old versions only: once, from Go modules, outside the
# tree. Source it from the top folder, after say.sh.
# shellcheck shell=bash

readonly binaries_cache=${XDG_CACHE_HOME:-$HOME/.cache}/vl3-lb/cluster

# Modules below deploy/cluster/binaries, each with the packages of its programs.
readonly binaries_list='
etcd        go.etcd.io/etcd/server/v3
kubernetes  k8s.io/kubernetes/cmd/kubectl
kubernetes  k8s.io/kubernetes/cmd/kube-apiserver
kubernetes  k8s.io/kubernetes/cmd/kube-controller-manager
kubernetes  k8s.io/kubernetes/cmd/kube-scheduler
kubernetes  k8s.io/kubernetes/cmd/kubelet
coredns     vl3-lb.io/cluster/coredns
helm        helm.sh/helm/v4/cmd/helm
'

# The folder of a module's programs; it depends on go.sum and the version of Go.
binaries_folder() {
    local sum
    sum=$(cat "deploy/cluster/binaries/$1/go.mod" "deploy/cluster/binaries/$1/go.sum" | sha256sum)
    echo "$binaries_cache/$1-${sum:0:16}"
}

# Builds missing programs, with one line of progress each. Sets VL3LB_CLUSTER_BIN to the folder with all programs.
ensure_binaries() {
    local module package program folder modules=''
    while read -r module package; do
        [[ -n $module ]] || continue
        program=$(binary_name "$package")
        folder=$(binaries_folder "$module")
        modules+=" ${folder##*/}"
        [[ ! -x $folder/$program ]] || continue
        have_go ||
            die "Go is missing, which builds the cluster's $program" \
                "install Go 1.26 or newer (https://go.dev/dl); only \"./run cluster\" and \"./run test cluster\" need it"
        step "build $program ($module $(binary_version "$module")) once, into $folder"
        build_binary "$module" "$package" "$folder/$program"
    done <<<"$binaries_list"

    modules=$(sha256sum <<<"$modules")
    VL3LB_CLUSTER_BIN=$binaries_cache/bin-${modules:0:16}
    export VL3LB_CLUSTER_BIN
    mkdir -p "$VL3LB_CLUSTER_BIN"
    while read -r module package; do
        [[ -n $module ]] || continue
        program=$(binary_name "$package")
        ln -sfn "$(binaries_folder "$module")/$program" "$VL3LB_CLUSTER_BIN/$program"
    done <<<"$binaries_list"
}

# Whether all programs are built, so that Go is not needed.
have_binaries() {
    local module package
    while read -r module package; do
        [[ -z $module || -x $(binaries_folder "$module")/$(binary_name "$package") ]] || return 1
    done <<<"$binaries_list"
}

build_binary() {
    local module=$1 package=$2 output=$3 version begin=$SECONDS
    version=$(binary_version "$module")
    local flags="-s -w"
    # Without a version, kubectl warns about the version skew to a server v0.0.0.
    if [[ $module == kubernetes ]]; then
        local minor=${version#v*.}
        local variable=k8s.io/component-base/version
        flags+=" -X $variable.gitVersion=$version -X $variable.gitMajor=1 -X $variable.gitMinor=${minor%%.*}"
    fi
    mkdir -p "${output%/*}"
    # The program gets its name when it is complete, so that an interrupted build leaves no partial file. Without
    # cgo it runs in any root file system.
    (cd "deploy/cluster/binaries/$module" &&
        CGO_ENABLED=0 nice -n 5 go build -mod=readonly -trimpath -ldflags "$flags" -o "$output.part" "$package") ||
        die "go could not build $package (see above)" "check the network: the sources come from Go's module proxy"
    mv "$output.part" "$output"
    note "$(du -h "$output" | cut -f1) in $((SECONDS - begin)) s"
}

binary_version() {
    sed -nE 's/^(require )?\s*(k8s\.io\/kubernetes|go\.etcd\.io\/etcd\/server\/v3|github\.com\/coredns\/coredns|helm\.sh\/helm\/v4) (v[0-9.]+)( .*)?$/\3/p' \
        "deploy/cluster/binaries/$1/go.mod"
}

# The last part of the package's path; etcd's last part is the version.
binary_name() {
    case $1 in
    go.etcd.io/*) echo etcd ;;
    *) echo "${1##*/}" ;;
    esac
}
