# The start and the end of every demo: one runs at a time, and removes at its end whatever it made. To be sourced, after
# say.sh, network.sh and processes.sh.
#
# The demo that sources it defines play (all steps), explain_more (what remains after --keep) and take_down (removes
# everything), and sets $binary and $keep.
# shellcheck shell=bash
# shellcheck disable=SC2154 # $binary, $keep, $state, $socket, $service, $balancer_log and $prefix are set by the demo

# only_one COMMAND: exits unless root runs it and no other demo of this kind runs. COMMAND is how a user starts it.
only_one() {
    ((EUID == 0)) || die "the demo makes network namespaces and needs root" "run it by $1"
    exec 9>"$state.lock"
    # A killed demo's last command may hold the lock for a few seconds more.
    flock --timeout 6 9 || die "another $1 is running" "wait for its end, or stop it with Ctrl-C"
}

# Plays the demo and removes everything at its end, however it ends; with --keep the network stays.
up() {
    local began=$SECONDS
    take_down # of an earlier run: kept, or killed in between
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM
    trap 'finish $?' EXIT
    play
    step "the demo passed in $((SECONDS - began)) s"
}

# At every end, the good and the bad.
finish() {
    local status=$1
    set +e # whatever fails now, the rest is still removed
    trap '' HUP INT PIPE TERM
    if ((status > 0 && status < 128)) && [[ -s $balancer_log ]]; then
        note "the end of $balancer_log:"
        tail -n 20 "$balancer_log"
    fi
    if [[ $keep == --keep && $status -le 1 ]]; then
        explain
    else
        step "remove all that was made" 2>/dev/null # the reader may be gone
        take_down
    fi
}

explain() {
    step "the network stays; to enter it:"
    local namespace
    for namespace in $(namespaces); do
        note "ip netns exec $namespace bash"
    done
    note "ip netns exec $prefix-client curl -s $service"
    note "$binary status --socket $socket"
    explain_more
    note "to remove it: ./run demo --down"
}
