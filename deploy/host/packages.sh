# The system packages that building, testing and the demo need. To be sourced, after say.sh.
# shellcheck shell=bash

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

# Installs what is missing; asks the package servers for nothing if nothing is.
ensure_packages() {
    PATH=$PATH:/usr/sbin:/sbin # where Debian keeps ip, nft and ethtool, not on every user's PATH
    local missing=()
    read -ra missing <<<"$(missing_packages)"
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

# The names of the missing packages, on one line.
missing_packages() {
    local package sign missing=()
    while read -r package sign; do
        case $sign in
        '') continue ;;
        /*) [[ -e $sign ]] || missing+=("$package") ;;
        *) command -v "$sign" >/dev/null || missing+=("$package") ;;
        esac
    done <<<"$packages"
    echo "${missing[*]}"
}
