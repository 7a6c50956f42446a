#!/bin/bash
# usage: tests/boot.sh PACKAGE.deb     as root, on Debian with debootstrap and systemd-nspawn
# A Debian with mom's package in it, booted: what tests/outside/boot.py lets the unit do. The
# bare system is kept in target/boot.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in debootstrap systemd-nspawn nsenter python3; do
    command -v "$tool" >/dev/null || {
        echo "skipped: boot: no $tool (apt install debootstrap systemd-container python3)"
        exit 0
    }
done
package=$(realpath "$1")
base=$PWD/target/boot/${SUITE:=bookworm}
if [ ! -e "$base.done" ]; then
    rm -rf "$base"
    mkdir -p "$base"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,tzdata,procps \
        "$SUITE" "$base" >"$base.log"
    touch "$base.done"
fi
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.log"' EXIT
cp -a "$base/." "$root"
python3 tests/outside/boot.py "$package" "$root"
