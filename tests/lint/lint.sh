#!/bin/bash
# lint.sh - what a reader should not have to look for: format, layers, banned calls, headers that
# need others, dead suppressions, what cppcheck and clang-tidy find.  Prints what is wrong, or "lint: ok".
set -u
cd "$(dirname "$0")/../.." || exit 1
tests/deps.sh lint || exit 1
fail=0
complain() { fail=1; echo "lint: $*"; }
mapfile -t sources < <(git ls-files '*.c' '*.h')

clang-format --dry-run -Werror "${sources[@]}" 2>&1 | grep -E 'error:' | cut -d: -f1 | sort -u |
    while read -r file; do echo "lint: $file is not formatted (clang-format -i)"; done | tee /tmp/lint.$$
[ -s /tmp/lint.$$ ] && fail=1
rm -f /tmp/lint.$$

python3 tests/lint/layers.py "${sources[@]}" || fail=1

banned='\b(strcpy|strcat|sprintf|strtok|atoi|atol|strtol|strtoul|sscanf|gets|alloca)[ ]*\('
git grep -nE "$banned" -- '*.c' '*.h' ':!tests' && complain "banned function"
git grep -nE '\b(malloc|calloc|realloc|pthread_create|clock_gettime)[ ]*\(' -- '*.c' '*.h' ':!backends/base' ':!tests' &&
    complain "raw platform call outside backends/base"
git grep -nE '\b(exit|abort)[ ]*\(' -- '*.c' ':!*main.c' ':!backends/base/assert.c' ':!engine/tools' ':!tests' &&
    complain "exit or abort outside main"
git grep -nE '(TODO|FIXME|HACK)\b' -- '*.c' '*.h' '*.sh' '*.py' ':!tests/lint' ':!tests/golden' && complain "unfinished business"

flags="-std=gnu17 -D_GNU_SOURCE -I. $(pkg-config --cflags libmicrohttpd libcjson)"
for header in $(git ls-files '*.h' | grep -v '\.inc\.h$'); do
    # shellcheck disable=SC2086
    ${CC:-cc} $flags -Wall -Wextra -Werror -fsyntax-only -x c "$header" 2>/dev/null || complain "$header does not compile alone"
done

cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
    --suppress=missingIncludeSystem --suppress=checkersReport --suppress=arrayIndexThenCheck --suppress=nullPointerArithmetic -j 2 -I. backends kvcache engine scheduler daemon || fail=1

if [ "${LINT_TIDY:-1}" = 1 ]; then
    # shellcheck disable=SC2086
    git ls-files 'backends/*.c' 'kvcache/*.c' 'engine/*.c' 'scheduler/*.c' 'daemon/*.c' |
        xargs -P 2 -n 8 sh -c 'clang-tidy --quiet "$@" -- '"$flags"' 2>/dev/null' tidy | grep -E 'warning:|error:' && fail=1
fi
make -s WERROR=-Werror O=build/lint OPT=-O0 all >/dev/null || complain "the build has warnings"
[ $fail -eq 0 ] && echo "lint: ok"
exit $fail
