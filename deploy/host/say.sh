# Output and errors of all scripts, and running commands as root. To be sourced.
# shellcheck shell=bash

if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' faint=$'\e[2m' plain=$'\e[0m'
else
    bold='' green='' red='' faint='' plain=''
fi
readonly bold green red faint plain

# step TEXT: a line of progress.
step() { printf '%s==>%s %s%s%s\n' "$green" "$plain" "$bold" "$*" "$plain"; }

# note TEXT: a remark below the current step.
note() { printf '    %s%s%s\n' "$faint" "$*" "$plain"; }

# die ERROR [REMEDY...]: prints the error and one line per remedy, and exits.
die() {
    printf '%serror:%s %s\n' "$red" "$plain" "$1" >&2
    shift
    (($# == 0)) || printf '       %s\n' "$@" >&2
    exit 1
}

# Runs a command as root, with sudo if necessary.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "$1 needs root, and sudo is not installed" "run ./run as root"
    fi
}
