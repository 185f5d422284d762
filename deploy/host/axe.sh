# axe-core, which checks the accessibility of the status page. Sourced by run.
# shellcheck shell=bash

readonly axe_version=4.14.1
readonly axe_folder=${XDG_CACHE_HOME:-$HOME/.cache}/vl3-lb/axe-core-$axe_version

# Sets VL3LB_AXE to the path of axe.min.js, which is installed the first time. Fails where npm is not.
ensure_axe() {
    local script=$axe_folder/node_modules/axe-core/axe.min.js
    if [[ ! -f $script ]]; then
        command -v npm >/dev/null || return 1
        step "axe-core $axe_version"
        npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix "$axe_folder" "axe-core@$axe_version" ||
            die "npm could not install axe-core $axe_version (see above)"
    fi
    export VL3LB_AXE=$script
}
