# The servers of the demos, and a download from one of them that outlasts all changes. To be sourced, after say.sh,
# network.sh, processes.sh and show.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # $here, $state and $service are set by the demo, $started by start

readonly download_mib=64

# start_server N PORT: finance-server-N in its namespace server-N. It sends the download slowly while $state/slow exists.
start_server() {
    if [[ ! -e $state/download ]]; then
        head -c "${download_mib}M" /dev/urandom >"$state/download"
        download_sum=$(sha256sum <"$state/download")
    fi
    start "$state/server-$1.log" "server-$1" python3 "$here/server.py" --name "finance-server-$1" \
        --port "$2" --file "$state/download" --slow-while "$state/slow"
}

# await_server N PORT: until it answers.
await_server() {
    within 10 inside "server-$1" curl -sf --max-time 1 -o /dev/null "127.0.0.1:$2" ||
        die "finance-server-$1 does not answer: $(tail -n 3 "$state/server-$1.log")"
}

# begin_download: sets $from to the number of the server that sends it.
begin_download() {
    step "a download of $download_mib MiB begins: curl $service/download"
    touch "$state/slow"
    start "$state/curl.log" client curl -sS -4 -D "$state/headers" -o "$state/received" "$service/download"
    download=$started
    within 5 grep -q '^X-Server' "$state/headers" || die "the download does not begin"
    from=$(sed -n 's/^X-Server: finance-server-\([0-9]\).*/\1/p' "$state/headers")
    note "it comes from finance-server-$from"
}

# end_download: it must still run, then end with the bytes that were sent.
end_download() {
    step "meanwhile the download goes on"
    [[ -n $(start_time "$download") ]] || die "the download ended too early: $(<"$state/curl.log")"
    show flows --state established
    rm "$state/slow"
    within 60 has_ended "$download" || die "the download does not end"
    [[ $(sha256sum <"$state/received") == "$download_sum" ]] ||
        die "the download is not what was sent: $(stat -c %s "$state/received") bytes, $(<"$state/curl.log")"
    note "complete, and what was sent: sha256 ${download_sum%% *}"
}
