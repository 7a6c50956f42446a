#!/bin/sh
# usage: tests/engine.sh COMMAND [ARG...]
# Runs COMMAND with a Docker engine there. One that answers is used as it is; else dockerd
# is started, where it is installed and this is root, and stopped at the end. Without any
# COMMAND runs all the same, and says itself what it leaves out.
set -u

socket=/var/run/docker.sock
log=${TMPDIR:-/tmp}/mom-dockerd.$$.log
dockerd=

answers() { docker version >/dev/null 2>&1; }

start() {
    dockerd >"$log" 2>&1 &
    dockerd=$!
    trap 'kill "$dockerd"; wait "$dockerd"; rm -f "$log"' EXIT
    trap 'exit 130' INT TERM
    # The socket's file is there, and then someone answers on it: half a minute at most.
    tries=0
    until [ -S $socket ] && answers; do
        tries=$((tries + 1))
        if [ $tries -gt 150 ] || ! kill -0 $dockerd 2>/dev/null; then
            echo "engine.sh: dockerd does not come up:" >&2
            tail -n 20 "$log" >&2
            return
        fi
        sleep 0.2
    done
}

if ! answers && [ "$(id -u)" = 0 ] && [ -z "${DOCKER_HOST-}" ] && command -v dockerd >/dev/null; then
    start
fi
"$@"
