#!/bin/sh
# resolve.sh SERVICE: makes the ready balancers the first name servers of this pod. SERVICE is a headless Service that
# lists them. The cluster's name server follows, for all other names.
mark="# The cluster's own:"
own=$(sed "1,/^$mark\$/d" /etc/resolv.conf)
[ -n "$own" ] || own=$(cat /etc/resolv.conf)
cluster=$(echo "$own" | sed -n 's/^nameserver //p' | head -n 1)
domain=$(echo "$own" | sed -n 's/^search \([^ ]*\).*/\1/p')

while :; do
    # The first address is that of the queried server. Two balancers, since resolvers use three servers at most.
    balancers=$(nslookup -type=a "$1.$domain" "$cluster" 2>/dev/null |
        sed -n '/^Name:/,$s/^Address: *//p' | sort | head -n 2)
    if [ -n "$balancers" ] && [ "$balancers" != "$before" ]; then
        before=$balancers
        # The file is a mount and cannot be replaced. A single write, so that no program reads a partial file.
        new=$(echo "$balancers" | sed 's/^/nameserver /')
        printf '%s\n%s\n%s\n' "$new" "$mark" "$own" >/etc/resolv.conf
        echo "$new"
    fi
    sleep 1
done
