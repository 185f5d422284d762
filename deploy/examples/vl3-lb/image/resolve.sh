#!/bin/sh
# resolve.sh SERVICE: keeps the balancers that are ready, which SERVICE without a cluster IP lists, as the first
# name servers of this pod. The cluster's own comes after them, for all names that are not theirs.
mark="# The cluster's own:"
own=$(sed "1,/^$mark\$/d" /etc/resolv.conf)
[ -n "$own" ] || own=$(cat /etc/resolv.conf)
cluster=$(echo "$own" | sed -n 's/^nameserver //p' | head -n 1)
domain=$(echo "$own" | sed -n 's/^search \([^ ]*\).*/\1/p')

while :; do
    # The first address is that of the server that was asked. Two, as programs look at three at most.
    balancers=$(nslookup -type=a "$1.$domain" "$cluster" 2>/dev/null |
        sed -n '/^Name:/,$s/^Address: *//p' | sort | head -n 2)
    if [ -n "$balancers" ] && [ "$balancers" != "$before" ]; then
        before=$balancers
        # One write, so that nobody reads half of it. It is a mount: no other file can take its place.
        new=$(echo "$balancers" | sed 's/^/nameserver /')
        printf '%s\n%s\n%s\n' "$new" "$mark" "$own" >/etc/resolv.conf
        echo "$new"
    fi
    sleep 1
done
