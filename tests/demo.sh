#!/bin/sh
# usage: tests/demo.sh MOM
# Plays a short conversation with the program MOM in a scratch data directory, without
# keys and without network: `--model=offline` runs each message as a command. Her tools
# run in a container when a Docker engine and an image are there, else on this machine.
# From a terminal the conversation goes on with what you type.
set -eu

mom=$1
here=$(dirname "$0")/..
scratch=$(mktemp -d)
MOM_CONTAINER=mom-demo-$$
export MOM_CONTAINER

end() {
    "$here/docker.sh" remove >/dev/null 2>&1 || true
    rm -rf "$scratch"
}

trap end EXIT
trap 'exit 130' INT TERM

sandbox=host
for MOM_IMAGE in "${MOM_IMAGE-}" alpine:latest mom-test-alpine; do
    docker image inspect "${MOM_IMAGE:--}" >/dev/null 2>&1 || continue
    export MOM_IMAGE
    "$here/docker.sh" create "$scratch" && sandbox=docker:$MOM_CONTAINER && break
done
[ "$sandbox" != host ] || echo "no Docker engine with an image here: the tools run on this machine"

chat() { "$mom" --chat --model=offline --sandbox="$sandbox" "$scratch"; }

while IFS= read -r line; do
    printf '\nyou: %s\n' "$line"
    printf '%s\n' "$line" | chat
done <<'LINES'
echo "hello from $(hostname), I am $(id -un) in $(pwd)"
mkdir -p notes && date >notes/today && echo "I will remember that"
cat notes/today
ls nowhere
LINES

if [ -t 0 ]; then
    printf '\nYour turn: each line is run as a command, Ctrl-D ends.\n'
    chat
fi
printf '\nWhat she keeps of a conversation, in plain files:\n'
(cd "$scratch" && find . -type f | sort)
