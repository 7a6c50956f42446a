#!/bin/sh
# usage: tests/soak.sh MOM [KILLS]
# Kills mom (300 times) at random instants of a long conversation, lets clocks jump, stops the
# process and takes the network away: 0 lost, 0 doubled, no button left. Ten minutes at most
# on an idle machine. Takes python3, and libfaketime for the clocks (apt install faketime).
set -eu
command -v python3 >/dev/null || {
    echo "skipped: soak: no python3"
    exit 0
}
exec timeout 3600 python3 "$(dirname "$0")/outside/soak.py" "$@"
