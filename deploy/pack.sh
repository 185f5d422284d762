#!/bin/sh
# pack.sh PROGRAM ROOT: puts PROGRAM into ROOT/usr/local/bin and the libraries that it needs where it looks for them.
# Names of functions stay in it, for backtraces.
set -eu
program=$1 root=$2
mkdir -p "$root/usr/local/bin"
cp "$program" "$root/usr/local/bin/"
strip --strip-debug "$root/usr/local/bin/${program##*/}"
ldd "$program" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
done
