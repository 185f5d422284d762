# Installs the Rust toolchain and tools. Source it from the top folder, after say.sh.
# shellcheck shell=bash

rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
readonly rust_wanted
readonly deny_version=0.20.2
readonly cyclonedx_version=0.5.9 # deploy/Dockerfile has it, too
# Outside the target folder, so that clean builds keep them and checkouts share them.
readonly tools=${XDG_CACHE_HOME:-$HOME/.cache}/vl3-lb/tools

# Ensures a cargo of at least the version in Cargo.toml: an installed one, else one from rustup in addition.
ensure_rust() {
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    ! rust_suffices || return 0
    export RUSTUP_TOOLCHAIN=$rust_wanted
    ! rust_suffices || return 0

    step "Rust $rust_wanted"
    command -v rustup >/dev/null || install_rustup
    rustup toolchain install "$rust_wanted" --profile minimal --component clippy --component rustfmt ||
        die "rustup could not install Rust $rust_wanted (see above)" \
            "check the network, or install Rust $rust_wanted or newer yourself"
    rust_suffices ||
        die "no working Rust $rust_wanted after its installation: $(rustc --version 2>&1)"
}

# Ensures clippy and rustfmt, which a minimal toolchain lacks.
ensure_rust_lints() {
    cargo clippy --version &>/dev/null && cargo fmt --version &>/dev/null && return
    step "clippy and rustfmt"
    rustup component add clippy rustfmt ||
        die "this Rust has no clippy or rustfmt, and rustup cannot add them" \
            "install them from where your Rust came from"
}

# Ensures cargo-deny at a fixed version. It is built once from source, about ten minutes on two cores.
ensure_cargo_deny() {
    [[ $("$tools/bin/cargo-deny" --version 2>/dev/null) != "cargo-deny $deny_version" ]] || return 0
    step "cargo-deny $deny_version, built once into $tools"
    cargo install --quiet --locked --root "$tools" "cargo-deny@$deny_version" ||
        die "cargo could not build cargo-deny $deny_version (see above)"
}

# Ensures cargo-cyclonedx at a fixed version. It is built once from source, a few minutes on two cores.
ensure_cargo_cyclonedx() {
    [[ $("$tools/bin/cargo-cyclonedx" cyclonedx --version 2>/dev/null) != *" $cyclonedx_version" ]] || return 0
    step "cargo-cyclonedx $cyclonedx_version, built once into $tools"
    cargo install --quiet --locked --root "$tools" "cargo-cyclonedx@$cyclonedx_version" ||
        die "cargo could not build cargo-cyclonedx $cyclonedx_version (see above)"
}

rust_suffices() {
    local version
    command -v cargo >/dev/null || return 1
    version=$(rustc --version 2>/dev/null) || return 1
    version=${version#rustc }
    printf '%s\n' "$rust_wanted" "${version%% *}" | sort --version-sort --check=silent
}

# From the package of Debian 13, Ubuntu 24.04 and later, or by rustup's installer.
install_rustup() {
    if [[ $(apt-cache policy rustup 2>/dev/null) == *'Candidate: '[0-9]* ]]; then
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends rustup ||
            die "apt-get could not install rustup (see above)"
    else
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --no-modify-path --profile minimal --default-toolchain none ||
            die "rustup's installer failed (see above)" \
                "check the network, or install Rust $rust_wanted or newer yourself: https://rustup.rs"
    fi
    hash -r
}
