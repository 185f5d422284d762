# Installs system packages for builds, tests, the demo and the cluster. Source it after say.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034 # the lists are used by ./run

# The package's name in Debian, and a command or file that shows that it is installed.
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
iputils-tracepath tracepath
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

# Programs of the namespace tests alone.
readonly netns_packages='
chromium         chromium
chromium-driver  chromedriver
dnsdist          dnsdist
haproxy          haproxy
nfdump           nfcapd
nginx-light      nginx
prometheus       promtool
tshark           tshark
tmux             tmux
'

# The benchmark's peers and load generators.
readonly bench_packages='
dpdk-dev              dpdk-testpmd
haproxy               haproxy
libnginx-mod-stream   /usr/lib/nginx/modules/ngx_stream_module.so
nginx-light           nginx
wrk                   wrk
'

# Programs of the cluster's nodes, and for building an image in its tests.
readonly cluster_packages='
binutils                   strip
buildah                    buildah
busybox-static             busybox
containerd                 containerd
containernetworking-plugins /usr/lib/cni/bridge
openssl                    openssl
runc                       runc
'

# For sh -c: none of the packages that it installs is started as a service.
# shellcheck disable=SC2016 # expanded by the inner shell
readonly without_services='
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod +x "$policy"
    trap "rm -f $policy" EXIT
fi
'

# ensure_packages LIST: installs missing packages, none of which is started as a service. Uses no network if none are
# missing.
ensure_packages() {
    PATH=$PATH:/usr/sbin:/sbin # where Debian keeps ip, nft and ethtool, not on every user's PATH
    local missing=()
    read -ra missing <<<"$(missing_packages "$1")"
    ((${#missing[@]} > 0)) || return 0

    step "system packages: ${missing[*]}"
    command -v apt-get >/dev/null ||
        die "these programs and headers are missing, and packages are installed on Debian and Ubuntu only: ${missing[*]}" \
            "install what your distribution calls them, then run the command again"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
    as_root "${apt[@]}" update ||
        die "apt-get update failed (see above)" "check the network and /etc/apt/sources.list"
    as_root sh -c "$without_services"'"$@"' sh "${apt[@]}" install -y --no-install-recommends "${missing[@]}" ||
        die "apt-get could not install: ${missing[*]}" "fix the error above, then run the command again"
}

# Installs missing packages of the benchmark's peers. Peers that cannot be installed are skipped. None is started as a
# service.
ensure_bench_packages() {
    local missing=() driver
    read -ra missing <<<"$(missing_packages "$bench_packages")"
    # The name of DPDK's AF_XDP driver contains DPDK's ABI version.
    driver=$(apt-cache search --names-only '^librte-net-af-xdp[0-9]+$' 2>/dev/null | cut -d' ' -f1 | tail -1)
    [[ -z $driver ]] || dpkg-query --show --showformat='${db:Status-Status}' "$driver" 2>/dev/null | grep -qx installed ||
        missing+=("$driver")
    ((${#missing[@]} > 0)) || return 0

    step "packages of the benchmark's peers: ${missing[*]}"
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_root sh -c "$without_services"'
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q -o DPkg::Lock::Timeout=300 update
        for package in "$@"; do
            apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$package" ||
                echo "$package could not be installed: its peer is skipped" >&2
        done' sh "${missing[@]}"
}

# missing_packages LIST: prints the names of missing packages on one line.
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
