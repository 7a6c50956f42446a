#!/bin/sh
# usage: tests/image.sh [docker|podman]
# Makes the image the tests run their containers from, and prints its name. It stands in
# for alpine where no registry is reachable: Debian's busybox-static and nothing else.
# It is made again when this file or busybox changes.
set -eu

engine=${1-docker}
image=mom-test-alpine
busybox=$(command -v busybox) || {
    echo "image.sh: no busybox: apt install busybox-static" >&2
    exit 1
}
recipe=$(cat "$0" "$busybox" | cksum | cut -d ' ' -f 1)
if [ "$("$engine" image inspect --format '{{.Config.Labels.recipe}}' $image 2>/dev/null)" = "$recipe" ]; then
    echo $image
    exit
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
cd "$root"
mkdir -p bin dev etc home/user proc run sbin sys usr/bin usr/sbin var/tmp workspace
mkdir -m 700 root
mkdir -m 1777 tmp
cp "$busybox" bin/busybox
! ldd bin/busybox >/dev/null 2>&1 || {
    echo "image.sh: $busybox is not static: apt install busybox-static" >&2
    exit 1
}
for applet in $(bin/busybox --list-full); do
    mkdir -p "${applet%/*}"
    [ -e "$applet" ] || ln -s /bin/busybox "$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n' >etc/passwd
printf 'root:x:0:\nuser:x:1000:\n' >etc/group
tar -c --numeric-owner --owner=0 --group=0 . | "$engine" import --change "LABEL recipe=$recipe" \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'CMD ["sh"]' - $image >/dev/null
echo $image
