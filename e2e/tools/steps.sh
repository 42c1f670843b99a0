#!/usr/bin/env bash
# Runs make targets one after the other, also after one failed: steps.sh TARGET...
#
# The end says of each how it went and how long it took, and names every test that failed.
set -uo pipefail

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
summary=() failed=0

for step; do
    began=$SECONDS
    if "${MAKE:-make}" --no-print-directory "$step" </dev/null 2>&1 | tee "$logs/$step"; then
        result=ok
    else
        result=FAILED
        failed=1
    fi
    summary+=("$(printf '%-14s %-6s %5d s' "$step" "$result" $((SECONDS - began)))")
    if [ "$result" = FAILED ]; then
        # libtest and the runners of our own say "test NAME ... FAILED".
        tests=$(grep -a '^test .* \.\.\. FAILED' "$logs/$step" | sed 's/^test \(.*\) \.\.\. FAILED.*/    \1/')
        summary+=("${tests:-    no test failed: see its last lines}")
    fi
done

printf '\nsteps:\n'
printf '%s\n' "${summary[@]}"
exit $failed
