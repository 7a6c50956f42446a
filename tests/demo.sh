#!/bin/sh
# usage: tests/demo.sh MOM
# Plays a short conversation with the program MOM in a scratch data directory, without
# keys and without network: `--model=offline` runs each message as a command. The tools
# run in a container when an engine and an image are there, else on this machine, in the
# scratch directory. From a terminal the conversation goes on with what you type.
set -eu

mom=$(realpath "$1")
here=$(realpath "$(dirname "$0")/..")
engine=${MOM_ENGINE:-docker}
set_here=$(env | sed -n -E 's/^(MOM_(IMAGE|DOCKER_ARGS|NETWORK|MEMORY|CPUS|PIDS))=.*/\1/p' | sort | paste -s -d ' ')
# It would come back after a reboot, when this is killed before the end.
MOM_DOCKER_ARGS="--restart=no ${MOM_DOCKER_ARGS-}"
MOM_CONTAINER=mom-demo-$$
export MOM_CONTAINER MOM_DOCKER_ARGS
scratch=

# Also after the window was closed, or when nobody reads on: dash does not run the trap of
# EXIT when a signal ends it. What is called here ignores those signals as well.
end() {
    trap '' HUP INT TERM PIPE
    "$here/docker.sh" remove </dev/null >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM

scratch=$(mktemp -d)
log=$scratch/docker.sh.log
sandbox=host
mkdir "$scratch/data"

# What docker.sh and the engine said. The next steps in it are for a container that is to
# stay, and for a directory that is gone when someone reads it.
said() { sed -e '/^  next: /d' -e '/its message stands above/d' -e 's/^docker\.sh: //' "$log"; }

on_this_machine() { # reason, and the command that helps where there is one
    printf 'no container for the demo: %s\n' "$1"
    [ -z "${2-}" ] || printf '  to have one: %s\n' "$2"
    printf '  going on without: the tools run on this machine, in %s\n' "$scratch/data"
}

# The first image that is there; the last is that of the tests.
find_image() {
    for image in ${MOM_IMAGE:-alpine:latest mom-test-alpine}; do
        ! "$engine" image inspect "$image" >/dev/null 2>&1 || return 0
    done
    return 1
}

code=0
"$here/docker.sh" status >"$log" 2>&1 || code=$?
if [ $code != 5 ]; then # 5: there is no such container, so the engine answers
    on_this_machine "$(said)" "$(sed -n 's/^  next: //p' "$log")"
elif ! find_image; then
    on_this_machine "it needs an image" "$engine pull ${MOM_IMAGE:-alpine}"
elif MOM_IMAGE=$image "$here/docker.sh" create "$scratch/data" >"$log" 2>&1; then
    sandbox=$engine:$MOM_CONTAINER
else
    on_this_machine "$(said)" "${set_here:+look at what is set in $set_here}"
fi

# Tools on the host start where mom was started.
cd "$scratch/data"
# Warnings speak of what lasts; this container and directory don't.
chat() { "$mom" --chat --log-level=error --model=offline --sandbox="$sandbox" "$scratch/data"; }

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
    trap : INT # mom ends the command, not this
    chat
fi
printf '\nWhat mom keeps of a conversation, in plain files:\n'
find . -type f | sort
