# The system packages that building, testing, the demo and the cluster need. To be sourced, after say.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034 # the lists are used by ./run

# Debian's name of the package; the command or file that shows that it is there.
readonly packages='
bind9-dnsutils   dig
ca-certificates  /etc/ssl/certs/ca-certificates.crt
clang            clang
curl             curl
ethtool          ethtool
gcc              gcc
iperf3           iperf3
iproute2         ip
iputils-ping     ping
jq               jq
libbpf-dev       /usr/include/bpf/bpf_helpers.h
libc6-dev        /usr/include/stdio.h
libelf-dev       /usr/include/libelf.h
linux-libc-dev   /usr/include/linux/if_xdp.h
llvm             llc
m4               m4
make             make
nftables         nft
pkg-config       pkg-config
procps           ps
python3          python3
shellcheck       shellcheck
tcpdump          tcpdump
util-linux       setsid
zlib1g-dev       /usr/include/zlib.h
'

# The peers of the benchmark and its load generators.
readonly bench_packages='
dpdk-dev              dpdk-testpmd
haproxy               haproxy
libnginx-mod-stream   /usr/lib/nginx/modules/ngx_stream_module.so
nginx-light           nginx
wrk                   wrk
'

# What the nodes of the cluster are made of, and what builds an image in its tests.
readonly cluster_packages='
binutils                   strip
buildah                    buildah
busybox-static             busybox
containerd                 containerd
containernetworking-plugins /usr/lib/cni/bridge
openssl                    openssl
runc                       runc
'

# ensure_packages LIST: installs what is missing; asks the package servers for nothing if nothing is.
ensure_packages() {
    PATH=$PATH:/usr/sbin:/sbin # where Debian keeps ip, nft and ethtool, not on every user's PATH
    local missing=()
    read -ra missing <<<"$(missing_packages "$1")"
    ((${#missing[@]} > 0)) || return 0

    step "system packages: ${missing[*]}"
    command -v apt-get >/dev/null ||
        die "these programs and headers are missing, and this is no Debian or Ubuntu: ${missing[*]}" \
            "install what your distribution calls them, then run the command again"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
    as_root "${apt[@]}" update ||
        die "apt-get update failed (see above)" "check the network and /etc/apt/sources.list"
    as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" ||
        die "apt-get could not install: ${missing[*]}" "see above for the reason, then run the command again"
}

# Installs what the benchmark's peers lack, as far as it goes: a peer that is missing is left out. None of them is
# started as a service.
ensure_bench_packages() {
    local missing=() driver
    read -ra missing <<<"$(missing_packages "$bench_packages")"
    # DPDK's AF_XDP driver has the version of DPDK's interface in its name.
    driver=$(apt-cache search --names-only '^librte-net-af-xdp[0-9]+$' 2>/dev/null | cut -d' ' -f1 | tail -1)
    [[ -z $driver ]] || dpkg-query --show --showformat='${db:Status-Status}' "$driver" 2>/dev/null | grep -qx installed ||
        missing+=("$driver")
    ((${#missing[@]} > 0)) || return 0

    step "packages of the benchmark's peers: ${missing[*]}"
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_root sh -c '
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod +x "$policy"
            trap "rm -f $policy" EXIT
        fi
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q -o DPkg::Lock::Timeout=300 update
        for package in "$@"; do
            apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$package" ||
                echo "$package could not be installed: its peer is left out" >&2
        done' sh "${missing[@]}"
}

# missing_packages LIST: their names, on one line.
missing_packages() {
    local package sign missing=()
    while read -r package sign; do
        case $sign in
        '') continue ;;
        /*) [[ -e $sign ]] || missing+=("$package") ;;
        *) command -v "$sign" >/dev/null || missing+=("$package") ;;
        esac
    done <<<"$1"
    echo "${missing[*]}"
}
