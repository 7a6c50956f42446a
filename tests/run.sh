#!/bin/bash
# usage: tests/engine.sh tests/run.sh
# All tests. The mutation tests, which keep the processors busy, come after those that wait
# for real processes. A few that failed run once more, alone: real processes and sockets on a
# busy machine can take longer than a test waits; what passes then is named. The last line
# counts, and says what was left out for want of what, and on which engine they ran.
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

again=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u)
alone=0
if [ -n "$again" ] && [ "$(wc -l <<<"$again")" -le 5 ]; then
    for name in $again; do
        if "$cargo" test --locked -- --exact "$name" 2>&1 | grep '^test result: ok. 1 passed'; then
            echo "failed among the others, passed alone: $name"
            alone=$((alone + 1))
        fi
    done
fi

engine=$(docker version --format 'Docker {{.Server.Version}}' 2>/dev/null) || engine='no engine'
# What was missing, once for each test that was left out: the first thing that it named.
missing=$(sed -n 's/^skipped: //p' "$log" | sort -u -t : -k 1,1 | sed 's/^[^:]*: //')
skipped=$(grep -c . <<<"$missing")
why=$(sort <<<"$missing" | uniq -c | sort -rn |
    awk '{ count = $1; $1 = ""; list = list ", " count " no" $0 } END { print substr(list, 3) }')
passed=$(($(sum passed) - skipped + alone))
failed=$(($(sum failed) - alone))
[ $alone = 0 ] || [ $failed -gt 0 ] || code=0
echo
[ "$failed" = 0 ] || grep '^test .* FAILED$' "$log"
[ "$skipped" -gt 0 ] && why=" ($why)" || why=
echo "$passed passed, $failed failed, $skipped skipped$why, on $engine"
exit $code
