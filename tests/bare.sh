#!/bin/bash
# usage: tests/bare.sh     as root, on Debian with debootstrap
# Installs mom as the README says in a bare Debian 13, as an ordinary user and as root: what
# a newcomer without cargo reads, build, demo, install, tests without an engine, uninstall.
# The crates come from a directory beside it; all else from Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
root=$scratch/debian
trap 'umount -l "$root/proc" "$root/dev" 2>/dev/null || true; rm -rf "$scratch"' EXIT

step() { printf '\n== %s\n' "$*"; }
fail() {
    echo "bare.sh: $*" >&2
    exit 1
}
as_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive bash -ec "cd ~/mom 2>/dev/null || cd /; $1"; }
as_user() { chroot "$root" setpriv --reuid=pi --regid=pi --init-groups env -i PATH=/usr/bin:/bin HOME=/home/pi bash -ec "cd ~/mom; $1"; }
# The command fails, and its one line on stderr names this.
refuses() { # who, command, words
    if said=$("$1" "$2" 2>&1); then fail "'$2' should have failed"; fi
    grep -q "$3" <<<"$said" || fail "'$2' does not say '$3' but: $said"
    echo "$said"
}

step 'a bare Debian 13'
debootstrap --variant=minbase trixie "$root" >"$scratch/log" || { tail "$scratch/log" && fail debootstrap; }
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf"
as_root 'useradd --create-home --shell /bin/bash pi'
git clone -q . "$root/home/pi/mom"
cargo vendor --locked -q "$root/crates" >/dev/null
mkdir "$root/home/pi/.cargo"
printf '[source.crates-io]\nreplace-with = "beside"\n[source.beside]\ndirectory = "/crates"\n' >"$root/home/pi/.cargo/config.toml"
as_root 'chown -R pi:pi /home/pi'

step 'without cargo: one line'
as_root 'apt-get install -q -y --no-install-recommends make >/dev/null'
refuses as_user make 'sudo apt install cargo'

step 'what the README says to install'
line=$(sed -n 's/^ *sudo \(apt install .*cargo.*\)$/\1/p' README.md | head -n 1)
[ -n "$line" ] || fail 'the README has no line: sudo apt install ... cargo ...'
as_root "${line/apt install/apt-get install -q -y} >/dev/null"

step 'make, and make demo, as a user without an engine'
refuses as_root 'cd /home/pi/mom && make' 'run first, as pi: make'
as_user 'make && make demo </dev/null'

step 'sudo make install'
as_root 'cd /home/pi/mom && make install install-service CARGO=/nowhere'
[ -z "$(find "$root/home/pi/mom" -user root)" ] || fail "root's files in the user's directory"
as_user 'mkdir -m 700 -p ~/mom-data && mom --version && mom --chat --model=offline ~/mom-data <<<"echo hello" | grep -q hello'
refuses as_user 'mom ~/mom-data' MOM_SLACK_APP_TOKEN

step 'make test, as a user without an engine'
as_user 'make test </dev/null' | tail -n 20

step 'as root'
cp -a "$root/home/pi/mom" "$root/root/mom"
chown -R 0:0 "$root/root/mom"
as_root 'make demo </dev/null && make uninstall && ! command -v mom'

step 'an older cargo: one line'
printf '#!/bin/sh\necho cargo 1.65.0\n' >"$root/usr/local/bin/old-cargo"
chmod 755 "$root/usr/local/bin/old-cargo"
refuses as_user 'touch src/main.rs; make CARGO=/usr/local/bin/old-cargo' 'too old'
echo
echo 'bare.sh: all steps passed'
