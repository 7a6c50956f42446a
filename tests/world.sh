#!/bin/sh
# usage: tests/world.sh MOM     takes the registries, some minutes and 1 GB
# mom against litellm's proxy and llama.cpp's server (from PyPI, into target/world) and against
# nginx and squid, where they are installed (apt install nginx-light squid): what
# tests/outside/world.py does with them. No part of `make test`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
command -v python3 >/dev/null || {
    echo "skipped: world: no python3"
    exit 0
}
venv=$here/../target/world
if [ ! -e "$venv/done" ]; then
    python3 -m venv "$venv"
    # Wheels alone: llama.cpp is not to be compiled here.
    "$venv/bin/pip" install --quiet --only-binary :all: 'litellm[proxy]' xllamacpp gguf
    touch "$venv/done"
fi
exec python3 "$here/outside/world.py" "$1" "$venv/bin/python"
