#!/bin/bash
# usage: tests/bare.sh [ROOT]     as root, where debootstrap is installed
# Follows the README in a bare Debian 13, with the README's own lines, as an ordinary user
# and as root: build, demo, install, service, tests without an engine, upgrade, uninstall.
# MOM_BARE_QUICK=1 leaves out `make test`, which takes longest.
# ROOT is a bare Debian to copy in place of a new one. The crates come from a directory
# beside it. What it does is seen by nobody else: it has its own mounts and processes, which
# end with it, and its directory is removed.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${MOM_BARE-}" ]; then
    MOM_BARE=$(mktemp -d)
    export MOM_BARE
    # Never into what is still mounted.
    trap 'rm -rf --one-file-system "$MOM_BARE"' EXIT
    set -m # else bash starts it with SIGINT ignored, and so the tests in there
    unshare --mount --pid --fork --kill-child "$0" "$@" &
    trap 'kill -KILL $!; wait; exit 130' INT TERM
    wait $!
    exit
fi
root=$MOM_BARE/debian

step() { printf '\n== %s\n' "$*"; }
fail() {
    echo "bare.sh: $*" >&2
    exit 1
}

# The one command of the README that begins so: a line of code without its comment, or what
# stands in backticks in a table.
readme() { # words
    local found
    found=$(sed -n "/^    /{ s/^ *//; s/  *#.*//; p }; s/^| .* | \`\([^\`]*\)\`.*/\1/p" README.md |
        awk -v words="$1 " 'index($0 " ", words) == 1')
    [ -n "$found" ] || fail "the README has no command '$1'"
    [ "$(wc -l <<<"$found")" = 1 ] || fail "the README has several commands '$1': $found"
    echo "$found"
}

# Each command is shown before it runs. Where a clone is there, it runs in it.
inside() { # user, command
    local home=/home/$1
    [ -n "$2" ] || exit 1 # `readme` has said why
    [ "$1" != root ] || home=/root
    echo "$1: $2" >&2
    chroot "$root" setpriv --reuid="$1" --regid="$1" --init-groups \
        env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$home" USER="$1" TERM=dumb \
        bash -ec "cd ~/mom-source 2>/dev/null || cd; $2" </dev/null
}
# It fails, and one of its lines says this.
refuses() { # user, command, words
    local said
    if said=$(inside "$1" "$2" 2>&1); then fail "should have failed: $2"; fi
    grep -F -- "$3" <<<"$said" || fail "'$2' does not say '$3' but: $said"
}
says() { # user, command, words
    local said
    said=$(inside "$1" "$2" 2>&1) || fail "failed: $2: $said"
    grep -F -- "$3" <<<"$said" || fail "'$2' does not say '$3' but: $said"
}

step 'a bare Debian 13, and a user who may use sudo'
if [ $# -gt 0 ]; then
    cp -a "$1" "$root"
else
    debootstrap --variant=minbase --include=sudo,systemd,ca-certificates trixie "$root" >"$MOM_BARE/log" || {
        tail "$MOM_BARE/log"
        fail debootstrap
    }
fi
mount -t proc proc "$root/proc"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
cp /etc/resolv.conf "$root/etc/resolv.conf"
echo 'APT::Get::Assume-Yes "true";' >"$root/etc/apt/apt.conf.d/yes"
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe" # no sync of each file
chroot "$root" useradd --create-home --shell /bin/bash pi
echo 'pi ALL = NOPASSWD: ALL' >"$root/etc/sudoers.d/pi"
echo 'Defaults env_keep += "DEBIAN_FRONTEND"' >"$root/etc/sudoers.d/quiet"
echo "127.0.0.1 $(hostname)" >>"$root/etc/hosts"
mkdir -p "$root/source" "$root/.cargo" "$root/run/systemd" # the last as on a booted one
as_pi=(-c safe.directory='*' -c user.name=pi -c user.email=pi@localhost)
changed=$(git "${as_pi[@]}" stash create)
git "${as_pi[@]}" archive "${changed:-HEAD}" | tar -x -C "$root/source"
cargo vendor --locked -q "$root/crates" >/dev/null
printf '[source.crates-io]\nreplace-with = "beside"\n[source.beside]\ndirectory = "/crates"\n' >"$root/.cargo/config.toml"

step 'without cargo: one line'
inside pi 'DEBIAN_FRONTEND=noninteractive sudo apt-get install -q make >/dev/null'
cp -a "$root/source" "$root/home/pi/mom-source"
chroot "$root" chown -R pi:pi /home/pi
refuses pi make 'sudo apt install cargo'
refuses pi 'make test' 'sudo apt install cargo'
rm -r "$root/home/pi/mom-source"

step 'what the README says to install, and the clone'
grep -q '^    git clone .* sudo apt install git$' README.md || fail 'the README does not say how to get git'
inside pi 'DEBIAN_FRONTEND=noninteractive sudo apt install git >/dev/null 2>&1'
inside pi "DEBIAN_FRONTEND=noninteractive $(readme 'sudo apt install') >/dev/null 2>/tmp/apt || { cat /tmp/apt; false; }"
inside pi "$(readme 'sudo usermod')"
chroot "$root" git config --system safe.directory '*'
git="git ${as_pi[*]} -C /source"
inside root "$git init -q && $git add -A && $git commit -q -m mom"
clone=$(readme 'git clone')
clone=${clone/URL/\/source}
inside pi "$clone"

step 'make demo, as a user without an engine'
refuses root 'cd /home/pi/mom-source && make' 'run first, as pi: make'
says pi "$(readme 'make demo')" 'the docker engine does not answer'

step 'make && sudo make install, with no cargo for root'
inside pi make
mv "$root/usr/bin/cargo" "$root/usr/bin/cargo-hidden"
inside pi "$(readme 'make && sudo make install')"
inside pi "$(readme 'sudo make install install-service')"
mv "$root/usr/bin/cargo-hidden" "$root/usr/bin/cargo"
[ -z "$(find "$root/home/pi" -user root)" ] || fail "root's files in the user's directory"

step 'the first conversation'
inside pi "$(readme 'mkdir -m 700')"
refuses pi "$(readme 'mom-sandbox create ~/mom/data')" 'docker engine'
chat=$(readme 'mom --chat')
says pi "${chat/--sandbox=docker:mom-sandbox/--model=offline} <<<'echo hello from mom'" 'hello from mom'
refuses pi "$chat" ANTHROPIC_API_KEY
refuses pi 'mom ~/mom/data' MOM_SLACK_APP_TOKEN
says pi 'mom --manifest' 'https://api.slack.com/apps?new_app=1'

step 'the service'
inside pi "$(readme 'sudo install -d')"
inside pi "$(readme 'sudo install -D -m 600') <<<xapp-1"
enable=$(readme 'sudo systemctl daemon-reload')
inside pi "${enable/ --now/}" # here is no systemd to start it
[ "$(cat "$root/etc/credstore/MOM_SLACK_APP_TOKEN")" = xapp-1 ] || fail 'the token is not kept'
[ -L "$root/etc/systemd/system/multi-user.target.wants/mom.service" ] || fail 'the service is not enabled'

step 'the pictures of Slack'
inside pi "$(readme 'make demo-slack')" >"$MOM_BARE/log" 2>&1 || { tail "$MOM_BARE/log"; fail demo-slack; }
[ -s "$root/home/pi/mom-source/target/demo-slack.html" ] || fail 'no pictures'

if [ -z "${MOM_BARE_QUICK-}" ]; then
    step 'make test, as a user without an engine'
    inside pi "$(readme 'make test')" >"$MOM_BARE/log" 2>&1 || {
        grep -a -E -A 5 'panicked at|^error' "$MOM_BARE/log" || true
        tail -n 60 "$MOM_BARE/log"
        fail 'make test'
    }
    tail -n 40 "$MOM_BARE/log"
    tail -n 1 "$MOM_BARE/log" |
        grep -Eq '^[1-9][0-9]+ passed, 0 failed, [1-9][0-9]* skipped \(.*[0-9] no Docker engine.*\), on no engine$' ||
        fail 'make test does not end with its count, and what was left out'
fi

step 'upgrade'
inside root "echo '# newer' >>/source/docker.sh && $git commit -q -a -m newer"
inside pi "$(readme 'git pull')"
tail -n 1 "$root/usr/local/bin/mom-sandbox" | grep -q newer || fail 'the upgrade did not arrive'

step 'uninstall'
uninstall=$(readme 'sudo systemctl disable')
uninstall=${uninstall/ --now/}
refuses pi "$uninstall" 'docker engine'
inside pi "${uninstall/mom-sandbox remove/true}"
refuses pi mom 'mom: command not found'
[ -d "$root/home/pi/mom/data" ] || fail 'the data is gone'

step 'all of it as root'
cp -a "$root/home/pi/mom-source" "$root/root/mom-source"
chown -R 0:0 "$root/root/mom-source"
says root "$(readme 'make demo')" 'hello from'
inside root 'make install && mom --version && make uninstall'

step 'an older cargo: one line'
printf '#!/bin/sh\necho cargo 1.65.0\n' >"$root/usr/local/bin/cargo"
chmod 755 "$root/usr/local/bin/cargo"
refuses pi 'touch src/main.rs && make' 'cargo 1.65.0 is too old'

printf '\nbare.sh: all steps passed\n'
