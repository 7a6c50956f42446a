#!/bin/sh
# docker.sh: makes and keeps mom's computer, the container its tools run in.
#
# usage: docker.sh COMMAND
#
#   create DATA_DIR  make and start the container, DATA_DIR mounted at /workspace
#   start            start it again (after a reboot the engine does that by itself)
#   stop             stop it; what is installed and stored inside stays
#   remove [--yes]   remove it and all that is inside; DATA_DIR stays as it is. At a
#                    terminal it asks first; --yes does not
#   status           say whether it runs, and on which image and directory
#   shell            open a shell in it (the exit code is then the shell's own)
#   --help           print this
#
# Environment:
#   MOM_CONTAINER    name of the container (mom-sandbox)
#   MOM_IMAGE        image it is made of (alpine:latest); pulled when it is not there
#   MOM_DOCKER_ARGS  further options for `docker create`, in shell quotes where needed:
#                    MOM_DOCKER_ARGS='-p 8080:80 -v "/srv/my books:/books:ro"'
#                    Never mount the engine's socket: who can reach it owns the host.
#   MOM_NETWORK      network (the engine's default); none: no network at all. With one,
#                    the container reaches what the host can reach, your LAN included.
#   MOM_MEMORY       memory limit (half of the machine's)
#   MOM_CPUS         processors it may use (all but half of one)
#   MOM_PIDS         processes and threads it may have (512)
#                    An empty limit is none. There is none for disk space: see
#                    `docker create --storage-opt` for the file systems that have one.
#   MOM_ENGINE       docker or podman (docker). podman starts containers after a reboot
#                    with: systemctl enable podman-restart
#
# Exit codes:
#   0  done
#   1  the engine refused, its own message is shown; or you did, at `remove`
#   2  wrong usage: command, argument or variable
#   3  the engine's program is not installed
#   4  the engine does not answer
#   5  there is no such container
#   6  the container exists already
#   7  the container is not running
#   8  the data directory is missing or can't be entered
#   9  the image is missing and can't be pulled

set -u
LC_ALL=C
export LC_ALL
unset CDPATH

engine=${MOM_ENGINE:-docker}
name=${MOM_CONTAINER:-mom-sandbox}
image=${MOM_IMAGE:-alpine:latest}

quote() { # one word, as the shell would read it
    case $1 in
    *[!a-zA-Z0-9_./:@%+=,-]*) printf "'%s'\n" "$(printf '%s\n' "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf '%s\n' "$1" ;;
    esac
}

# How the user can call this script again, and with `self` for this container: the next steps
# are shown so. That is mom-sandbox where PATH has it, ./docker.sh in a checkout; a name
# without a directory was given to the shell, as in `sh docker.sh`.
me=${0##*/}
case $0 in
"$(command -v "$me")") script=$me ;;
*/*) script=$(quote "$0") ;;
*) script="sh $(quote "$0")" ;;
esac
with_engine=
[ "$engine" = docker ] || with_engine="MOM_ENGINE=$engine "
self=$with_engine$script
[ "$name" = mom-sandbox ] || self="${with_engine}MOM_CONTAINER=$name $script"

fail() { # exit code, message, next step
    printf '%s: %s\n' "$me" "$2" >&2
    [ -z "${3-}" ] || printf '  next: %s\n' "$3" >&2
    exit "$1"
}

usage() { fail 2 "$1" "$script --help"; }

# The comment at the top of this file is the help text, with the name that works here.
help() {
    printf "%s: makes and keeps mom's computer, the container its tools run in.\n\nusage: %s COMMAND\n" \
        "$me" "$script"
    sed -n '5,/^$/ s/^#\( \|$\)//p' "$0"
}

check_names() {
    case $engine in
    docker | podman) ;;
    *) usage "MOM_ENGINE must be docker or podman, not '$engine'" ;;
    esac
    # The engines' own rule. It also keeps a name from being read as an option.
    case $name in
    [!a-zA-Z0-9]* | *[!a-zA-Z0-9_.-]* | ?)
        usage "MOM_CONTAINER '$name' is no container name: letters, digits, '_', '.', '-', at least two, the first a letter or digit"
        ;;
    esac
    case $image in
    -* | *[[:space:][:cntrl:]]*) usage "MOM_IMAGE '$image' is no image name" ;;
    esac
}

check_engine() {
    package=$engine
    [ "$engine" = podman ] || package=docker.io # so Debian calls it
    command -v "$engine" >/dev/null 2>&1 ||
        fail 3 "$engine is not installed (no '$engine' in PATH)" \
            "apt install $package, or apk add $engine"
    answer=$("$engine" version 2>&1 >/dev/null) && return
    case $answer in
    *ermission\ denied*)
        fail 4 "you may not use the $engine engine: $answer" \
            "sudo usermod -aG docker ${USER:-$(id -un)}, then log in again (a member of that group can become root), or use a rootless engine" ;;
    *)
        fail 4 "the $engine engine does not answer: $answer" \
            "start it (systemctl start docker, or service docker start) and look at DOCKER_HOST if it is set" ;;
    esac
}

# Prints one field of the container; an empty line when there is no such container.
inspect() { # template
    answer=$("$engine" container inspect --format "$1" -- "$name" 2>&1) || case $answer in
    *[Nn]"o such container"*) answer= ;;
    *) fail 1 "cannot inspect container '$name': $answer" ;;
    esac
    printf '%s\n' "$answer"
}

# Sets `state` to created, running, paused, restarting, exited or dead.
find_container() {
    state=$(inspect '{{.State.Status}}') || exit
    [ -n "$state" ] || fail 5 "there is no container '$name'" "$self create DATA_DIR"
}

check_running() {
    [ "$state" = running ] ||
        fail 7 "container '$name' is not running, it is $state" "$self start"
}

data_dir_of_container() {
    inspect '{{range .Mounts}}{{if eq .Destination "/workspace"}}{{.Source}}{{end}}{{end}}'
}

say_use() { # data directory
    printf '  next: mom --sandbox=%s:%s %s\n' "$engine" "$name" "$(quote "$1")"
}

# Sets `dir` to the absolute path of the data directory, free of symlinks.
find_data_dir() { # path as typed
    case $1 in
    *[[:cntrl:]]*) usage "the data directory's name has control characters in it" ;;
    /*) dir=$1 ;;
    *) dir=./$1 ;; # or `cd -` would go somewhere else
    esac
    [ ! -e "$dir" ] || [ -d "$dir" ] ||
        fail 8 "$1 is no directory" "name the data directory: mkdir data && $self create ./data"
    [ -d "$dir" ] ||
        fail 8 "there is no data directory $1" "mkdir -p $(quote "$1")"
    dir=$(cd "$dir" 2>/dev/null && pwd -P) ||
        fail 8 "cannot enter the data directory $1: permission denied" "ls -ld $(quote "$1")"
}

find_image() {
    "$engine" image inspect --format x -- "$image" >/dev/null 2>&1 && return
    printf '%s: pulling %s\n' "$me" "$image" >&2
    "$engine" pull -- "$image" >&2 ||
        fail 9 "image '$image' is not there and could not be pulled" \
            "check the name and the network, or take another one ($engine images): MOM_IMAGE=NAME $self create $(quote "$1")"
}

# The container's root can open the data directory itself to the other users of this machine,
# and leave a program there that gives them its rights (set-user-ID). Only a directory above
# it that is closed to them keeps them out, or a file system that ignores that bit.
warn_if_open() { # data directory
    mount=$(df -P "$1" | awk 'NR == 2 { print $NF }')
    ! awk -v at="$mount" '$2 == at && $4 ~ /nosuid/ { found = 1 } END { exit !found }' /proc/mounts ||
        return 0
    above=${1%/*}
    while [ -n "$above" ]; do
        case $(stat -c %a "$above") in *[0246]) return ;; esac
        above=${above%/*}
    done
    above=${1%/*}
    case $above in /*/*) ;; *) above= ;; esac
    case ${above:-/var/lib}:$(stat -c %a "${above:-/}") in
    # Of the system, or for everyone to write to: not to be closed.
    /var/lib:* | /usr/local:* | *[2367])
        next="$self remove; then move it into a directory that is closed to them: mkdir -m 700 $(quote "${1%/*}/mom")" ;;
    *) next="chmod 700 $(quote "$above")" ;;
    esac
    printf '%s: warning: other users of this machine can enter %s: root in the container could leave a program there that gives them its rights\n  next: %s\n' \
        "$me" "$1" "$next" >&2
}

half_of_memory() { awk '/^MemTotal:/ { printf "%dk", $2 / 2 }' /proc/meminfo; }

# Half a processor is left to the host and to mom, also when the agent runs a miner.
most_of_cpus() { echo "$(($(getconf _NPROCESSORS_ONLN) - 1)).5"; }

create() { # data directory
    find_data_dir "$1"
    # One word a line, quotes taken off. Not `eval`: a stray $ or ; must not run anything.
    extra=$(printf '%s\n' "${MOM_DOCKER_ARGS-}" | xargs -n 1 printf '%s\n' 2>/dev/null) ||
        usage "MOM_DOCKER_ARGS can't be split into words, a quote is open: ${MOM_DOCKER_ARGS-}"
    check_engine
    state=$(inspect '{{.State.Status}}') || exit
    if [ -n "$state" ]; then
        has=$(data_dir_of_container)
        next="make another container: ${with_engine}MOM_CONTAINER=${name}2 $script create $(quote "$1")"
        case $has:$state in
        "$dir":running) next="$self status" ;;
        "$dir":*) next="$self start" ;;
        :*) fail 6 "container '$name' exists already ($state, without a data directory)" "$next" ;;
        *) next="name that directory, or $next" ;;
        esac
        fail 6 "container '$name' exists already ($state, data directory $has)" "$next"
    fi
    find_image "$1"

    set --
    # The capabilities that are left; every other one of the engine's defaults goes:
    #   CHOWN, FOWNER, FSETID  package managers set owner, mode, setuid bits, times of files
    #   DAC_OVERRIDE           root works in directories of others: /workspace, /home, caches
    #   SETUID, SETGID         apt fetches as _apt; git, su and services change their user
    #   SYS_CHROOT             apk runs the scripts of packages in a chroot
    #   SETFCAP                dpkg and rpm set file capabilities (ping, for one) or give up
    #   KILL                   the leash ends a tool that changed its user
    # Gone are NET_RAW (forged packets on the bridge), MKNOD, SETPCAP, AUDIT_WRITE and
    # NET_BIND_SERVICE (ports below 1024 are free inside anyway).
    for capability in CHOWN FOWNER FSETID DAC_OVERRIDE SETUID SETGID SYS_CHROOT SETFCAP KILL; do
        set -- "$@" "--cap-add=$capability"
    done
    [ -z "${MOM_NETWORK-}" ] || set -- "$@" "--network=$MOM_NETWORK"
    memory=${MOM_MEMORY-$(half_of_memory)}
    [ -z "$memory" ] || set -- "$@" "--memory=$memory"
    cpus=${MOM_CPUS-$(most_of_cpus)}
    [ -z "$cpus" ] || set -- "$@" "--cpus=$cpus"
    pids=${MOM_PIDS-512}
    [ -z "$pids" ] || set -- "$@" "--pids-limit=$pids"
    while IFS= read -r word; do
        [ -z "$word" ] || set -- "$@" "$word"
    done <<WORDS
$extra
WORDS

    # --mount is read as a CSV record, so that quotes carry commas and colons.
    # --init reaps what tools leave behind. No log: the agent can write to the output of
    # process 1, and with a log that would fill the host's disk.
    # Tools run as root, whatever user the image names: they could not write to /workspace.
    id=$("$engine" create --name="$name" --init --restart=unless-stopped --user=0 \
        --security-opt=no-new-privileges --cap-drop=ALL --log-driver=none \
        --mount="type=bind,\"source=$(printf '%s\n' "$dir" | sed 's/"/""/g')\",target=/workspace" \
        --workdir=/workspace --entrypoint=tail \
        "$@" -- "$image" -f /dev/null) ||
        fail 1 "$engine could not create container '$name', its message stands above" \
            "look at MOM_DOCKER_ARGS, MOM_MEMORY, MOM_CPUS and MOM_PIDS, then the same again"
    "$engine" start "$id" >/dev/null || {
        "$engine" rm --force "$id" >/dev/null
        fail 1 "$engine could not start container '$name', its message stands above; it is removed again" \
            "look at MOM_DOCKER_ARGS, MOM_NETWORK and MOM_IMAGE, then the same again"
    }
    # What each call of a tool begins with.
    answer=$("$engine" exec "$id" sh -c : 2>&1) || {
        "$engine" rm --force "$id" >/dev/null
        fail 1 "no shell (sh) starts in container '$name', it is removed again: $answer" \
            "look at MOM_IMAGE (alpine:latest has one) and MOM_DOCKER_ARGS, then the same again"
    }
    printf "container '%s' runs, %s is its /workspace\n" "$name" "$dir"
    say_use "$dir"
    warn_if_open "$dir"
}

start() {
    find_container
    case $state in
    running) printf "container '%s' runs already\n" "$name" && return ;;
    paused) verb=unpause ;;
    *) verb=start ;;
    esac
    "$engine" "$verb" "$name" >/dev/null ||
        fail 1 "$engine could not start container '$name', its message stands above" \
            "mend that; $self remove makes room for a new one, but what is installed in it is lost"
    printf "container '%s' runs\n" "$name"
    say_use "$(data_dir_of_container)"
}

stop() {
    find_container
    # Also what restarts or is paused is stopped: it must not come back by itself.
    case $state in created | exited | dead) check_running ;; esac
    # One made without --init ignores the signal to end, so don't wait ten seconds for it.
    "$engine" stop --time=2 "$name" >/dev/null || fail 1 "$engine could not stop container '$name'"
    printf "container '%s' is stopped; what is in it stays\n  next: %s start\n" "$name" "$self"
}

remove() { # --yes or nothing
    find_container
    dir=$(data_dir_of_container)
    if [ -z "${1-}" ] && [ -t 0 ]; then
        printf "Remove container '%s', with all that is installed and stored in it? %s stays. [y/N] " \
            "$name" "${dir:-Its data}" >&2
        read -r answer
        case $answer in
        [yY]*) ;;
        *) fail 1 "nothing is removed" ;;
        esac
    fi
    "$engine" rm --force "$name" >/dev/null || fail 1 "$engine could not remove container '$name'"
    printf "container '%s' is removed, with all that was installed in it; %s stays\n  next: %s create %s\n" \
        "$name" "${dir:-its data}" "$self" "$(quote "${dir:-DATA_DIR}")"
}

status() {
    find_container
    dir=$(data_dir_of_container)
    printf "container '%s' is %s\n  image: %s\n  /workspace: %s\n" \
        "$name" "$state" "$(inspect '{{.Config.Image}}')" "${dir:-nothing is mounted there}"
    check_running
    [ -z "$dir" ] || say_use "$dir"
}

shell() {
    find_container
    check_running
    terminal=
    [ -t 0 ] && [ -t 1 ] && terminal=-t
    # shellcheck disable=SC2086 # without a terminal there is no such option
    exec "$engine" exec -i $terminal --workdir=/workspace "$name" \
        sh -c 'command -v bash >/dev/null && exec bash; exec sh'
}

command=${1-}
[ $# -eq 0 ] || shift
case $command in
create)
    case $#:${1-} in
    1:?*) ;;
    *) usage "create takes one argument, the data directory" ;;
    esac
    ;;
remove)
    case $#:${1-} in
    0: | 1:--yes) ;;
    *) usage "remove takes no argument but --yes: $*" ;;
    esac
    ;;
start | stop | status | shell)
    [ $# -eq 0 ] || usage "$command takes no argument: $*"
    ;;
-h | --help | help)
    help
    exit
    ;;
'') usage "a command is missing: create, start, stop, remove, status or shell" ;;
*) usage "there is no command '$command': create, start, stop, remove, status or shell" ;;
esac
check_names
case $command in
create) create "$1" ;;
*)
    check_engine
    "$command" "$@"
    ;;
esac
