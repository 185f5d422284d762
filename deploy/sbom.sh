#!/bin/sh
# sbom.sh PACKAGE PROGRAM ROOT: writes ROOT/usr/share/doc/PROGRAM/sbom.cdx.json, of what PROGRAM is made (CycloneDX 1.5): the crates
# of the cargo package PACKAGE, by cargo-cyclonedx, and the Debian packages of the libraries that pack.sh has copied to ROOT.
# Run it from the top folder. It needs cargo-cyclonedx and jq.
set -eu
package=$1 program=$2 root=$3
folder=$root/usr/share/doc/$program
manifest=$(cargo metadata --no-deps --format-version 1 --locked |
    jq -r --arg name "$package" '.packages[] | select(.name == $name).manifest_path')
[ -n "$manifest" ] || { echo "sbom.sh: no cargo package $package" >&2 && exit 1; }
# It writes a file beside the manifest of each member of the workspace.
name=sbom-$$.cdx
trap 'find . -maxdepth 3 -name "$name.json" -exec rm {} +' EXIT
trap 'exit 130' INT TERM
# No serial number and no time of its own: the same sources make the same file.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0} cargo cyclonedx --quiet --manifest-path "$manifest" --format json \
    --spec-version 1.5 --override-filename "$name"

mkdir -p "$folder"
find "$root" -name '*.so*' >"$root/libraries"
# Names of the Debian packages of the libraries, with version and architecture. Not in a pipe, where `exit` would end a part of it.
owners() {
    while read -r library; do
        owner=$(dpkg-query --search "*${library#"$root"}" | sed -n '1s/: .*//p')
        [ -n "$owner" ] || { echo "sbom.sh: no Debian package has $library" >&2 && exit 1; }
        # shellcheck disable=SC2016 # dpkg-query's own variables
        dpkg-query --show --showformat='${Package}\t${Version}\t${Architecture}\n' "$owner"
    done <"$root/libraries"
}
owners >"$root/owners"
jq --rawfile owners "$root/owners" '
    ($owners | split("\n") | unique | map(select(. != "") | split("\t")
        | "pkg:deb/debian/\(.[0])@\(.[1])?arch=\(.[2])" as $purl
        | {type: "library", "bom-ref": $purl, name: .[0], version: .[1], purl: $purl})) as $libraries
    | .components += $libraries' "${manifest%/*}/$name.json" >"$folder/sbom.cdx.json"
rm "$root/owners" "$root/libraries"
