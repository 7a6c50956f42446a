#!/bin/bash
# usage: tests/engine.sh tests/run.sh
# All tests. The mutation tests, which keep the processors busy, come after those that wait
# for real processes. The last line counts; what was left out stands in the lines before it.
set -uo pipefail

cargo=${CARGO:-cargo}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

code=0
"$cargo" test --locked --no-fail-fast -- --skip survives 2>&1 | tee "$log" || code=1
"$cargo" test --locked --bin mom survives 2>&1 | tee -a "$log" || code=1

sum() {
    awk -v what="$1;" '/^test result: / { for (i = 2; i <= NF; i++) if ($i == what) n += $(i - 1) } END { print n + 0 }' "$log"
}

engine=$(docker version --format 'Docker {{.Server.Version}}' 2>/dev/null) || engine='no Docker engine'
skipped=$(grep -c '^skipped: ' "$log")
passed=$(($(sum passed) - skipped))
failed=$(sum failed)
echo
if [ "$skipped" -gt 0 ]; then
    echo "left out, for want of the following:"
    sed -n 's/^skipped: [^:]*: //p' "$log" | sort | uniq -c
fi
[ "$failed" = 0 ] || grep '^test .* FAILED$' "$log"
echo "on: $engine"
echo "$passed passed, $failed failed, $skipped skipped"
exit $code
