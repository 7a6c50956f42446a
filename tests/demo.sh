#!/bin/sh
# usage: tests/demo.sh MOM
# Plays a short conversation with the program MOM in a scratch data directory, without
# keys and without network: `--model=offline` runs each message as a command. The tools
# run in a container when a Docker engine and an image are there, else on this machine,
# in the scratch directory. From a terminal the conversation goes on with what you type.
set -eu

mom=$(realpath "$1")
here=$(realpath "$(dirname "$0")/..")
scratch=$(mktemp -d)
MOM_CONTAINER=mom-demo-$$
export MOM_CONTAINER
log=$scratch/docker.sh.log

end() {
    "$here/docker.sh" remove </dev/null >/dev/null 2>&1 || true
    rm -rf "$scratch"
}

trap end EXIT
trap 'exit 130' INT TERM

# Why there is no container, and the command that helps.
on_this_machine() { # reason, command
    echo "no container for the demo: $1"
    echo "  to have one: $2"
    echo "  going on without: the tools run on this machine, in $scratch/data"
}

sandbox=host
mkdir "$scratch/data"
if ! command -v docker >/dev/null; then
    on_this_machine 'Docker is not installed' 'sudo apt install docker.io'
elif ! answer=$(docker version 2>&1); then
    case $answer in
    *ermission\ denied*)
        on_this_machine 'you may not use the Docker engine' \
            "sudo usermod -aG docker $(id -un), then log in again"
        ;;
    *) on_this_machine 'the Docker engine does not answer' 'sudo systemctl start docker' ;;
    esac
else
    # The last is the image of the tests.
    for image in "${MOM_IMAGE-}" alpine:latest mom-test-alpine; do
        docker image inspect "${image:--}" >/dev/null 2>&1 || continue
        if MOM_IMAGE=$image "$here/docker.sh" create "$scratch/data" >"$log" 2>&1; then
            sandbox=docker:$MOM_CONTAINER
        else
            cat "$log"
        fi
        break
    done
    [ "$sandbox" != host ] || on_this_machine 'it needs an image' 'docker pull alpine'
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
    chat
fi
printf '\nWhat mom keeps of a conversation, in plain files:\n'
find . -type f | sort
