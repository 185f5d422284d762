# What every script here says and how: progress, errors, and the way to root. To be sourced.
# shellcheck shell=bash

if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' faint=$'\e[2m' plain=$'\e[0m'
else
    bold='' green='' red='' faint='' plain=''
fi
readonly bold green red faint plain

# A line of progress: what is being done now.
step() { printf '%s==>%s %s%s%s\n' "$green" "$plain" "$bold" "$*" "$plain"; }

# A remark below the current step.
note() { printf '    %s%s%s\n' "$faint" "$*" "$plain"; }

# The end: what failed, and what to do about it as further arguments, a line each.
die() {
    printf '%serror:%s %s\n' "$red" "$plain" "$1" >&2
    shift
    (($# == 0)) || printf '       %s\n' "$@" >&2
    exit 1
}

# Runs a command as root: as it is, or through sudo.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: $1" "run ./run as root"
    fi
}
