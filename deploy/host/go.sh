# Builds programs of the tests with Go, once, outside the tree. Source it from the top folder, after say.sh.
# shellcheck shell=bash

have_go() { command -v go >/dev/null; }

# build_go FOLDER OUTPUT [OPTION...]: builds the program in FOLDER as OUTPUT. No cgo: it runs in any root file system.
build_go() {
    local folder=$1 output=$2 begin=$SECONDS
    step "build ${output##*/} of $folder once, into ${output%/*}; the first time a minute or more"
    mkdir -p "${output%/*}"
    # Under another name until it is whole: an interrupted build leaves no half program.
    (cd "$folder" &&
        CGO_ENABLED=0 nice -n 5 go build -mod=readonly "${@:3}" -trimpath -ldflags '-s -w' -o "$output.part.$$" .) ||
        die "go could not build $folder (see above)" "check the network: its sources come from Go's module proxy"
    mv "$output.part.$$" "$output"
    note "$(du -h "$output" | cut -f1) in $((SECONDS - begin)) s"
}
