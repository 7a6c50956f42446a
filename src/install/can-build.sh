#!/bin/sh
# Says in one line what is missing to build mom here, and fails; else says nothing.
set -eu

cargo=${CARGO:-cargo}
min=1.85

fail() {
    echo "cannot build mom: $1" >&2
    exit 1
}

owner=$(stat -c %U .)
if [ "$(id -u)" = 0 ] && [ "$owner" != root ] && [ "$owner" != UNKNOWN ]; then
    fail "as root this would leave root's files in $owner's directory; run first, as $owner: make"
fi
command -v "$cargo" >/dev/null ||
    fail "$cargo is not installed (Rust $min or newer): sudo apt install cargo gcc, or https://rustup.rs"
command -v cc >/dev/null || fail 'no C compiler: sudo apt install gcc libc6-dev'
version=$("$cargo" --version | cut -d ' ' -f 2)
oldest=$(printf '%s\n%s\n' "$version" "$min" | sort -V | head -n 1)
[ "$oldest" = "$min" ] ||
    fail "cargo $version is too old, it takes $min: apt of Debian 13 or newer has it, else https://rustup.rs"
