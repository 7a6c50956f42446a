#!/bin/sh
# usage: tests/engine.sh COMMAND [ARG...]
# Runs COMMAND with a Docker engine there. One that answers is used as it is; else dockerd
# is started, where it is installed and this is root, and stopped at the end. Without any
# COMMAND runs all the same, and says itself what it leaves out. Where podman works as well,
# MOM_TEST_PODMAN tells COMMAND so.
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

# Podman gets a store and a configuration of its own, with what works everywhere, in a container
# too: plain copies in place of overlays, runc where it is there, low limits of open files.
find_podman() {
    command -v podman >/dev/null || return
    store=$(cd "$(dirname "$0")/.." && pwd)/target/podman
    mkdir -p "$store" || return
    CONTAINERS_STORAGE_CONF=$store/storage.conf CONTAINERS_CONF=$store/containers.conf
    cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "vfs"
graphroot = "$store/graph"
runroot = "$store/run"
END
    cat >"$CONTAINERS_CONF" <<END
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
$(command -v runc >/dev/null && echo 'runtime = "runc"')
END
    export CONTAINERS_STORAGE_CONF CONTAINERS_CONF
    image=$("$(dirname "$0")/image.sh" podman 2>/dev/null) &&
        podman run --rm "$image" true >/dev/null 2>&1 && export MOM_TEST_PODMAN=1
}

if ! answers && [ "$(id -u)" = 0 ] && [ -z "${DOCKER_HOST-}" ] && command -v dockerd >/dev/null; then
    start
fi
find_podman
"$@"
