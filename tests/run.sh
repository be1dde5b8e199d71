#!/bin/bash
# run.sh TEST... - run test programs one after the other; the last line counts their cases.
#
# A program prints Check's line "NN%: Checks: N, Failures: N, Errors: N"; exit 77 means skipped.
# Each has a limit of TEST_S seconds (default 300).
set -u
passed=0 failed=0 skipped=0
for test in "$@"; do
    out=$(timeout -k 5 "${TEST_S:-300}" "$test" 2>&1)
    rc=$?
    if [ $rc -eq 77 ]; then
        skipped=$((skipped + 1))
        echo "skip  ${test#build/}: $(tail -n 1 <<<"$out")"
        continue
    fi
    line=$(grep -E '^[0-9]+%: Checks: ' <<<"$out" | tail -n 1)
    if [[ $line =~ Checks:\ ([0-9]+),\ Failures:\ ([0-9]+),\ Errors:\ ([0-9]+) ]]; then
        bad=$((BASH_REMATCH[2] + BASH_REMATCH[3]))
        passed=$((passed + BASH_REMATCH[1] - bad))
        failed=$((failed + bad))
        [ $rc -ne 0 ] && [ $bad -eq 0 ] && failed=$((failed + 1))
    elif [ $rc -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    if [ $rc -eq 0 ]; then
        echo "ok    ${test#build/}: ${line:-1 check}"
    else
        echo "FAIL  ${test#build/} (exit $rc)"
        sed 's/^/      /' <<<"$out" | tail -n 60
    fi
done
if [ $skipped -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ $failed -eq 0 ]
