# What the demos ask and show. To be sourced, after say.sh, network.sh and processes.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # $binary, $socket, $service and $balancer are set by the demo

# request COUNT [CURL OPTION]: asks the service from the client, prints the answers and sets $answers.
request() {
    local count=$1
    shift
    answers=$(for _ in $(seq "$count"); do
        inside client curl -s -S --max-time 5 "$@" "$service" 2>&1 || true
    done)
    # shellcheck disable=SC2001 # each line, not the text
    sed 's/^/    /' <<<"$answers"
    ! grep -qv "^Hello! I'm finance-server-" <<<"$answers" || die "not all of $count requests were answered"
}

# show_requests: 12 requests, of which each of three servers must get some.
show_requests() {
    step "12 requests: curl -s $service"
    request 12
    local n
    for n in 1 2 3; do
        grep -q "finance-server-$n\$" <<<"$answers" || die "finance-server-$n got none of 12 requests"
    done
    shares
}

# How many of $answers came from each server.
shares() {
    echo
    sort <<<"$answers" | uniq -c | awk '{
        printf "    %-18s %3d  ", $NF, $1
        for (i = 0; i < $1; i++) printf "#"
        print ""
    }'
}

# What the balancer says about itself, as a person at a terminal sees it.
show() {
    local color=never
    [[ -z $green ]] || color=always
    vl3_lb "$@" --color "$color" | sed 's/^/    /'
}

vl3_lb() { "$binary" "$1" --socket "$socket" "${@:2}"; }

balancer_is_ready() { vl3_lb status --check &>/dev/null; }
balancer_is_ready_or_dead() { has_ended "$balancer" || balancer_is_ready; }
has_ended() { [[ -z $(start_time "$1") ]]; }

# within SECONDS COMMAND...: tries it ten times a second.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        ((SECONDS < end)) || return
        sleep 0.1
    done
}
