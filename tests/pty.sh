#!/bin/sh
# usage: tests/pty.sh PROGRAM [ARG...]
# Runs the program at a terminal of its own: what is typed comes from stdin, what the
# terminal shows goes to stdout.
line="exec"
for word in "$@"; do line="$line '$word'"; done
exec script -qefc "$line" /dev/null
