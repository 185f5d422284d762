# The processes of the demo, recorded so that a later run ends what a killed one left. To be sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # $state is set by demo.sh

# A line for each: its id and its start time, which no other process with that id shares.
readonly processes=$state/processes

# start OUTPUT NAME COMMAND...: runs a command in the background, in the namespace of NAME. Sets $started to its
# process id.
start() {
    local output=$1 name=$2
    shift 2
    start_here "$output" ip netns exec "$prefix-$name" "$@"
}

# start_here OUTPUT COMMAND...: runs a command in the background, in a session of its own, which Ctrl-C does not reach.
# Sets $started to its process id.
start_here() {
    local output=$1
    shift
    # 9 is the demo's lock, which must end with the demo.
    setsid "$@" </dev/null >"$output" 2>&1 9>&- &
    started=$!
    echo "$started $(start_time "$started")" >>"$processes"
    disown "$started" # no message from bash when it ends
}

# Field 22 of /proc/PID/stat; the second field may hold spaces and ends with the last parenthesis.
start_time() {
    local stat fields
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    read -ra fields <<<"${stat##*) }"
    echo "${fields[19]}"
}

# Ends all recorded processes: SIGTERM, and after three seconds SIGKILL.
stop_processes() {
    local pid time signal
    for signal in TERM KILL; do
        for _ in {1..30}; do
            local left=0
            while read -r pid time; do
                [[ -n $time && $(start_time "$pid") == "$time" ]] || continue
                left=1
                kill "-$signal" "$pid" 2>/dev/null || true
            done < <(cat "$processes" 2>/dev/null)
            ((left)) || return 0
            sleep 0.1
        done
    done
}
