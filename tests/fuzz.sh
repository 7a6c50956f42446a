#!/bin/bash
# usage: tests/fuzz.sh SECONDS [TEST...]
# Each parser for so many seconds under AFL++ (apt install afl++), which sees the code that an
# input reaches: the mutation tests of src, built with counters, each run with one input.
# Inputs that found something lie in target/fuzz/TEST/*/crashes and hangs; shown small, they
# belong into the corpus of that test. Without AFL++: the mutation tests, with more inputs.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
seconds=$1
shift
runtime=/usr/lib/afl/afl-compiler-rt.o
if ! command -v afl-fuzz >/dev/null || [ ! -e "$runtime" ]; then
    echo "no AFL++ here: the mutation tests, with 20 times the inputs"
    MOM_FUZZ=20 exec "$cargo" test --locked --bin mom mutation
fi

out=$PWD/target/fuzz
target=$(rustc -vV | sed -n 's/^host: //p')
# The target is named so that build scripts and macros are built without the counters.
binary=$(RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3
    -Cllvm-args=-sanitizer-coverage-trace-pc-guard -Clink-arg=$runtime" \
    CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_PROFILE_TEST_DEBUG=0 \
    "$cargo" test --locked --bin mom --no-run --target "$target" --target-dir "$out/build" 2>&1 |
    tee >(cat >&2) | sed -n 's/.*Executable.*(\(.*\))$/\1/p')

[ $# -gt 0 ] || mapfile -t tests < <("$binary" --list | sed -n 's/^\(.*survives_mutation.*\): test$/\1/p')
[ $# -eq 0 ] || tests=("$@")
export AFL_NO_UI=1 AFL_SKIP_CPUFREQ=1 AFL_NO_AFFINITY=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1
# A panic ends the test runner with 101.
export AFL_CRASH_EXITCODE=101
found=0
for test in "${tests[@]}"; do
    work=$out/${test//::/.}
    rm -rf "$work"
    mkdir -p "$work/seeds"
    MOM_FUZZER=$work/seeds "$binary" --exact "$test" >/dev/null
    MOM_FUZZER=- afl-fuzz -i "$work/seeds" -o "$work" -t 5000 -m none -V "$seconds" -- \
        "$binary" --exact "$test" --test-threads=1 >"$work/log" 2>&1 || { tail -n 20 "$work/log" && exit 1; }
    value() { sed -n "s/^$1 *: //p" "$work/default/fuzzer_stats"; }
    crashes=$(value saved_crashes) hangs=$(value saved_hangs)
    echo "$test: $(value execs_done) inputs, $(value edges_found) edges, $crashes crashes, $hangs hangs"
    found=$((found + crashes + hangs))
done
echo "${#tests[@]} parsers, $found findings"
[ "$found" = 0 ]
