#!/usr/bin/env bash
# Static binaries and Debian packages of mom with their checksums, in target/dist: the same
# bytes from every checkout that has the same compiler and C library. `test` lets each of
# them hold the conversations of tests/it/mention.rs, TLS among them, under qemu-user.
#
# PC and VPS: x86_64 (amd64). Pi 3 and newer, 64 bits: aarch64 (arm64). Pi 2 and newer, 32
# bits: armv7 (armhf). Pi Zero and Pi 1: armv6 (+armv6_armhf). They need nothing of the system
# but CA certificates and zoneinfo.
#
# It takes gcc for the machine (gcc-aarch64-linux-gnu, gcc-arm-linux-gnueabihf,
# gcc-arm-linux-gnueabi) and Rust's standard library: with rustup, `rustup target add`
# x86_64-unknown-linux-musl, aarch64-unknown-linux-musl, armv7-unknown-linux-musleabihf or
# arm-unknown-linux-musleabi; without, `apt install cargo rustc rust-src` (Debian 12:
# cargo-web rustc-web rust-web-src). The tests need qemu-user 9.2 (Debian 13).
#
# usage: src/install/dist.sh [build|test] [x86_64|aarch64|armv7|armv6]...
#
# Where rustc has a standard library for the target (`rustup target add`), that and its musl
# are taken. Else the library is built from its source, by a rustc that has it beside it,
# over Debian's musl-dev for that machine: fetched with apt, unpacked in target/dist,
# installed nowhere. JOBS: 2, which fits in 1 GB of memory. SOURCE_DATE_EPOCH and MAINTAINER
# ("Name <address>") go into the packages; by default they are the last commit's.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/dist
cargo=${CARGO:-cargo}
crates=${CARGO_HOME:-$HOME/.cargo}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
MAINTAINER=${MAINTAINER:-$(git log -1 --format='%an <%ae>')}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC0
umask 022

# Name, target, compiler, Debian's name of the machine and of musl's, what is added to the
# version, qemu. The last one is for Pi Zero and Pi 1, whose Raspberry Pi OS says armhf as
# well; but what makes code for Debian's armhf makes it for ARMv7.
machines() {
    cat <<'END'
x86_64 x86_64-unknown-linux-musl x86_64-linux-gnu amd64 amd64 - x86_64
aarch64 aarch64-unknown-linux-musl aarch64-linux-gnu arm64 arm64 - aarch64
armv7 armv7-unknown-linux-musleabihf arm-linux-gnueabihf armhf armhf - arm -cpu cortex-a7
armv6 arm-unknown-linux-musleabi arm-linux-gnueabi armhf armel +armv6 arm -cpu arm1176
END
}

die() {
    echo "dist.sh: $*" >&2
    exit 1
}

# A rustc with the library for $target, else one with the library's source.
find_rustc() {
    local dir
    for rustc in "${RUSTC:-rustc}" /usr/bin/rustc; do
        dir=$("$rustc" --print target-libdir --target "$target" 2>&1) || continue
        how=std
        if compgen -G "$dir/libstd-*.rlib" >/dev/null; then return; fi
    done
    for rustc in "${RUSTC:-rustc}" /usr/bin/rustc; do
        dir=$("$rustc" --print sysroot 2>&1) || continue
        how=source
        if [ -e "$dir/lib/rustlib/src/rust/library/Cargo.lock" ]; then return; fi
    done
    die "no standard library for $target, and no source to build it from. With rustup:
    rustup target add $target
Without: apt install cargo rustc rust-src (Debian 12: cargo-web rustc-web rust-web-src)"
}

# Debian's musl-dev for that machine, unpacked in $musl.
fetch_musl() {
    [ ! -e "$musl/usr" ] || return 0
    mkdir -p "$musl/lists/partial" "$musl/archives/partial"
    local private=(-q -o APT::Architecture="$musl_arch" -o APT::Architectures="$musl_arch"
        -o Dir::State="$musl" -o Dir::State::status=/dev/null -o Dir::Cache="$musl"
        -o APT::Sandbox::User=)
    # Sources that know nothing of this machine are no failure while one has the package.
    apt-get "${private[@]}" update || true
    (cd "$musl" && apt-get "${private[@]}" download musl-dev) ||
        die "apt-get finds no musl-dev for $musl_arch; with rustup: rustup target add $target"
    dpkg-deb -x "$musl"/musl-dev_*.deb "$musl"
    rm -rf "$musl"/{lists,archives,*.bin}
}

# One binary, $out/mom-VERSION-NAME. It lies at a fixed address: tables to move it are 4 % of
# it, and 60 KB that each process must write before it runs. What code occurs more than once
# is put into functions: 2 to 5 %.
build() {
    local flags=(--remap-path-prefix="$PWD=/mom" --remap-path-prefix="$crates=/crates"
        -C target-feature=+crt-static -C relocation-model=static
        -C llvm-args=-enable-machine-outliner=always)
    local cflags=-ffile-prefix-map="$crates=/crates" args=() sysroot triplet
    local musl=$out/musl-$musl_arch under=${target//-/_}
    command -v "$compiler-gcc" >/dev/null ||
        die "$compiler-gcc is missing: apt install gcc-${compiler//_/-}"
    find_rustc
    if [ "$how" = source ]; then
        fetch_musl
        # Nothing unwinds and its tables are left out (build.rs): a backtrace ends at once.
        # gcc's own unwinder wants glibc.
        "$compiler-gcc" -Os -c -x c -o "$musl/unwind.o" - <<'END'
int _Unwind_Backtrace(void) { return 5; /* _URC_END_OF_STACK */ }
unsigned long _Unwind_GetIP(void) { return 0; }
int _Unwind_VRS_Get(void) { return 1; }
END
        ar crsD "$musl/libunwind.a" "$musl/unwind.o"
        sysroot=$("$rustc" --print sysroot)
        triplet=${target/-unknown/}
        triplet=${triplet/armv7/arm}
        flags+=(--remap-path-prefix="$sysroot=/rustc" -C link-self-contained=no
            -C link-arg="-B$musl/usr/lib/$triplet" -L "native=$musl")
        cflags+=" -nostdinc -isystem $("$compiler-gcc" -print-file-name=include)"
        cflags+=" -isystem $musl/usr/include/$triplet"
        args=("-Zbuild-std=std,panic_abort" -Zbuild-std-features=optimize_for_size)
        export RUSTC_BOOTSTRAP=1
    fi
    env RUSTC="$rustc" CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f' && echo "${flags[*]}")" \
        "CARGO_TARGET_${under^^}_LINKER=$compiler-gcc" \
        "CC_$under=$compiler-gcc" "CFLAGS_$under=$cflags" "AR_$under=ar" \
        "$cargo" build --release --locked --jobs "${JOBS:-2}" --target-dir "$out/build" \
        --target "$target" "${args[@]}"
    install -m 755 "$out/build/$target/release/mom" "$out/mom-$version-$name"
}

# Packs a directory as an archive whose bytes tell nothing of this machine.
pack() {
    tar -C "$1" -c --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 \
        --numeric-owner --format=gnu . | gzip -9n >"$1.tar.gz"
}

# $out/mom-bot_VERSION_ARCHITECTURE.deb. Debian has another package named mom.
package() {
    local work=$out/package doc=usr/share/doc/mom-bot date
    date=$(date -R -d "@$SOURCE_DATE_EPOCH")
    rm -rf "$work"
    mkdir -p "$work/control"
    place() { install -D -m "$1" "${3:-/dev/stdin}" "$work/data/$2"; }
    place 755 usr/bin/mom "$out/mom-$version-$name"
    place 755 usr/bin/mom-sandbox docker.sh
    sed 's|@bindir@|/usr/bin|' src/install/mom.service |
        place 644 usr/lib/systemd/system/mom.service
    place 644 usr/lib/sysusers.d/mom.conf src/install/mom.sysusers
    gzip -9n <src/install/mom.1 | place 644 usr/share/man/man1/mom.1.gz
    ln -s mom.1.gz "$work/data/usr/share/man/man1/mom-sandbox.1.gz"
    place 644 usr/share/bash-completion/completions/mom src/install/mom.bash
    ln -s mom "$work/data/usr/share/bash-completion/completions/mom-sandbox"
    gzip -9n <<END | place 644 "$doc"/changelog.gz
mom-bot ($full) stable; urgency=low

  * See the history of the source.

 -- $MAINTAINER  $date
END
    place 644 usr/share/lintian/overrides/mom-bot <<'END'
# It is to run on every distribution, also where its C library is not the one it was built with.
mom-bot: statically-linked-binary [usr/bin/mom]
# debhelper's scripts would start it before it is set up.
mom-bot: maintainer-script-calls-systemctl [postinst:*]
mom-bot: maintainer-script-calls-systemctl [prerm:*]
END
    {
        cat LICENSE
        printf '\nThe program holds musl (MIT) and these crates, each under its licence\n'
        printf '(Apache-2.0: see /usr/share/common-licenses/Apache-2.0):\n\n'
        "$cargo" tree --locked --target "$target" -e normal,no-proc-macro --no-dedupe \
            --prefix none --format '{p} ({l})' | grep -v '^mom ' | sort -u
    } | place 644 "$doc"/copyright
    cat >"$work/control/control" <<END
Package: mom-bot
Version: $full
Architecture: $architecture
Maintainer: $MAINTAINER
Installed-Size: $(($(find "$work/data" -type f -exec cat {} + | wc -c) / 1024))
Depends: ca-certificates
Recommends: docker.io | docker-ce | podman, tzdata
Section: net
Priority: optional
Description: Slack bot with a computer of her own
 You mention mom in a channel or write to it; it answers with the help of a
 language model and the tools bash, read, write, edit and attach, which run in
 a container that it keeps, or on the host. One small static binary;
 all its state is one directory of plain files.
END
    # It is not started before it is set up; after an upgrade the new one runs.
    cat >"$work/control/postinst" <<'END'
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemd-sysusers mom.conf
    systemctl daemon-reload
    systemctl try-restart mom.service
fi
END
    cat >"$work/control/prerm" <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now mom.service
fi
END
    chmod 755 "$work"/control/p*
    (cd "$work/data" && find usr -type f -print0 | sort -z | xargs -0 md5sum) \
        >"$work/control/md5sums"
    pack "$work/control"
    pack "$work/data"
    echo 2.0 >"$work/debian-binary"
    rm -f "$deb"
    ar rcD "$deb" "$work"/debian-binary "$work"/{control,data}.tar.gz
    rm -rf "$work"
}

# The conversations of tests/it/mention.rs with one binary; its package looked at, installed
# below a directory of its own and removed again.
prove() {
    local emulator=() binary=$out/mom-$version-$name root=$out/root at=()
    if [ "$name" != "$(uname -m)" ]; then
        read -r -a emulator <<<"$qemu"
        emulator[0]=$(command -v "qemu-${emulator[0]}" "qemu-${emulator[0]}-static" | head -n 1)
        [ -n "${emulator[0]}" ] || die "no qemu for $name: apt install qemu-user"
        "${emulator[0]}" --version | grep -qE ' version (9\.[2-9]|[1-9][0-9])' ||
            die "${emulator[0]} is too old: 9.2 is the first to know openat2. Debian 13 has it
in qemu-user, which runs as well where it is unpacked to, in a directory of PATH"
    fi
    MOM_TEST_BINARY=$binary MOM_TEST_RUNNER=${emulator[*]} CI=1 \
        tests/engine.sh "$cargo" test --locked --test it -- mention::
    dpkg-deb -I "$deb"
    dpkg-deb -c "$deb"
    ! command -v lintian >/dev/null || lintian --no-cfg --allow-root --fail-on error,warning "$deb"
    rm -rf "$root"
    mkdir -p "$root"/var/lib/dpkg/{updates,info}
    touch "$root/var/lib/dpkg/status"
    at=(dpkg --root="$root" --log=/dev/null --force-architecture --force-depends
        --force-script-chrootless --force-not-root)
    "${at[@]}" -i "$deb"
    (cd "$root" && md5sum --quiet -c var/lib/dpkg/info/mom-bot.md5sums)
    cmp "$root/usr/bin/mom" "$binary"
    "${at[@]}" -r mom-bot
    [ ! -e "$root/usr" ] || die "dpkg -r left something in $root/usr"
    rm -rf "$root"
}

what=build
case ${1-} in build | test) what=$1 && shift ;; esac
[ $# -gt 0 ] || set -- x86_64 aarch64 armv7 armv6
mkdir -p "$out"
for wanted; do
    read -r name target compiler architecture musl_arch suffix qemu \
        < <(machines | grep "^$wanted ") || die "no machine $wanted, see the top of this file"
    full=$version${suffix#-}
    deb=$out/mom-bot_${full}_$architecture.deb
    case $what in
    build)
        build
        package
        ;;
    test) prove ;;
    esac
done
if [ "$what" = build ]; then
    (cd "$out" && sha256sum mom-* >SHA256SUMS && ls -l mom-* && cat SHA256SUMS)
fi
