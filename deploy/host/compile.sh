# Builds programs with a progress line. Source it from the top folder, after say.sh.
# shellcheck shell=bash

# The last packages are built alone, while one core waits: a third of the time of a cold build on two cores.
readonly last_share=33
# Seconds between two lines of progress where there is no terminal.
readonly progress_interval=15

# compile PROFILE PACKAGE PROGRAM: builds target/PROFILE/PROGRAM and shows the number of finished packages and an estimate
# of the remaining time. Warnings and errors are shown immediately.
compile() {
    local total
    total=$(cargo tree --package "$2" --edges normal,build --prefix none --format '{p}' 2>/dev/null |
        sed 's/ (.*//' | sort -u | wc -l)
    cargo build --quiet --profile "$1" --package "$2" --bin "$3" --message-format json-render-diagnostics |
        show_progress "$total"
}

# Reads cargo's messages, one per finished artifact.
show_progress() {
    local total=$1 finished='' count=0 fresh=0 shown=$SECONDS began=$SECONDS last_began='' line package status
    local -A seen=()
    while true; do
        # The timeout updates the estimate while one package takes long.
        if read -r -t 1 line; then
            if [[ $line == *'"reason":"compiler-artifact"'* && $line =~ \"package_id\":\"([^\"]*)\" ]]; then
                package=${BASH_REMATCH[1]}
                if [[ -z ${seen[$package]:-} ]]; then
                    seen[$package]=1
                    count=$((count + 1))
                    [[ $line != *'"fresh":true'* ]] || fresh=$((fresh + 1))
                fi
            fi
        else
            status=$?
            ((status > 128)) || break # the end of the input
        fi
        ((count < total - 3)) || last_began=${last_began:-$SECONDS}
        if [[ -t 2 ]]; then
            ((SECONDS > shown)) || continue
            printf '\r    %s\e[K' "$(progress_text)" >&2
            shown=$SECONDS finished=$'\r\e[K'
        elif ((SECONDS - shown >= progress_interval)); then
            note "$(progress_text)"
            shown=$SECONDS
        fi
    done
    printf '%s' "$finished" >&2
}

# The remaining time, from the share of packages finished since the start.
progress_text() {
    local elapsed=$((SECONDS - began)) done_now=$((count - fresh)) due=$((total - fresh)) share left
    printf 'compiled %d of %d packages' "$count" "$total"
    # Too early for an estimate, or most packages were built before.
    ((elapsed >= 10 && done_now > 0 && due > 0)) || return 0
    share=$((done_now * (100 - last_share) / due))
    ((share > 0)) || return 0
    left=$((elapsed * (100 - share) / share))
    # The last package's time is estimated from that of the others.
    if [[ -n $last_began ]]; then
        left=$(((last_began - began) * last_share / (100 - last_share) - (SECONDS - last_began)))
    fi
    if ((left >= 90)); then
        printf ', about %d min left' $(((left + 30) / 60))
    elif ((left >= 5)); then
        printf ', about %d s left' $(((left + 4) / 5 * 5))
    else
        printf ', nearly done'
    fi
}
