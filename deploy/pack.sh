#!/bin/sh
# pack.sh PROGRAM ROOT: copies PROGRAM to ROOT/usr/local/bin, and its libraries to the paths where it looks for them. The
# program keeps its symbol table for backtraces.
set -eu
program=$1 root=$2
mkdir -p "$root/usr/local/bin"
cp "$program" "$root/usr/local/bin/"
strip --strip-debug "$root/usr/local/bin/${program##*/}"
ldd "$program" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
done
