# Builds vl3-lb for arm64 on another architecture, with Debian's cross compiler and its arm64 libraries. Source it from the top
# folder, after say.sh, packages.sh and rust.sh.
# shellcheck shell=bash

readonly arm64=aarch64-linux-gnu arm64_target=aarch64-unknown-linux-gnu
readonly arm64_packages='
gcc-aarch64-linux-gnu  aarch64-linux-gnu-gcc
libbpf-dev:arm64       /usr/lib/aarch64-linux-gnu/libbpf.so
libelf-dev:arm64       /usr/lib/aarch64-linux-gnu/libelf.so
linux-libc-dev:arm64   /usr/include/aarch64-linux-gnu/asm/types.h
zlib1g-dev:arm64       /usr/lib/aarch64-linux-gnu/libz.so
'

# Installs the cross compiler, the libraries and Rust's standard library. Debian only: its packages of two architectures can be
# installed side by side.
ensure_arm64() {
    command -v dpkg >/dev/null || die "arm64 is cross-built on Debian and Ubuntu only"
    if [[ $(dpkg --print-foreign-architectures) != *arm64* ]]; then
        as_root dpkg --add-architecture arm64
    fi
    ensure_packages "$arm64_packages"
    [[ -d $(rustc --print sysroot)/lib/rustlib/$arm64_target ]] || rustup target add "$arm64_target" ||
        die "rustup could not add $arm64_target (see above)"
}

# cargo_arm64 ARGUMENT...: cargo for arm64. libxdp is compiled among its own sources, where objects of this machine's architecture
# may be, so they are unpacked once more.
# shellcheck disable=SC2154 # target is of run
cargo_arm64() {
    local home=$target/arm64-cargo-home own=${CARGO_HOME:-$HOME/.cargo}/registry
    mkdir -p "$home/registry" "$own/index" "$own/cache"
    ln -sfn "$own/index" "$own/cache" "$home/registry/"
    env CARGO_HOME="$home" CC="$arm64-gcc" LD="$arm64-ld" AR="$arm64-ar" OBJCOPY="$arm64-objcopy" HOST_CC=gcc \
        PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR="/usr/lib/$arm64/pkgconfig:/usr/share/pkgconfig" \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$arm64-gcc" \
        cargo "$@" --target "$arm64_target"
}
