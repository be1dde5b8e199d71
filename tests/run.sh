#!/bin/bash
# run.sh TEST... - run test programs one after the other; the last line counts their cases.
#
# A program prints Check's line "NN%: Checks: N, Failures: N, Errors: N", or "N passed, N failed", or
# nothing of the kind and counts as one; exit 77 means skipped.  Each has a limit of TEST_S seconds.
set -u
export CK_DEFAULT_TIMEOUT=${CK_DEFAULT_TIMEOUT:-60} # seconds for a case: machines under load are slow
passed=0 failed=0 skipped=0
for test in "$@"; do
    began=$SECONDS
    out=$(timeout -k 5 "${TEST_S:-300}" "$test" 2>&1 </dev/null)
    rc=$?
    took=$((SECONDS - began))
    name=${test#"${O:-build}"/}
    if [ $rc -eq 77 ]; then
        skipped=$((skipped + 1))
        echo "skip  $name: $(tail -n 1 <<<"$out")"
        continue
    fi
    good=0 bad=0
    line=$(grep -E '^[0-9]+%: Checks: |^[0-9]+ passed, [0-9]+ failed' <<<"$out" | tail -n 1)
    if [[ $line =~ Checks:\ ([0-9]+),\ Failures:\ ([0-9]+),\ Errors:\ ([0-9]+) ]]; then
        bad=$((BASH_REMATCH[2] + BASH_REMATCH[3]))
        good=$((BASH_REMATCH[1] - bad))
    elif [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed ]]; then
        good=${BASH_REMATCH[1]} bad=${BASH_REMATCH[2]}
    elif [ $rc -eq 0 ]; then
        good=1
    fi
    [ $rc -ne 0 ] && [ $bad -eq 0 ] && bad=1
    passed=$((passed + good)) failed=$((failed + bad))
    if [ $rc -eq 0 ]; then
        echo "ok    $name: $good ($took s)"
    else
        echo "FAIL  $name: $bad of $((good + bad)), exit $rc ($took s)"
        tail -n "${TEST_LINES:-60}" <<<"$out" | sed 's/^/      /'
    fi
done
if [ $skipped -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ $failed -eq 0 ]
