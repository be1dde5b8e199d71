#!/bin/sh
# deps.sh run|check - make sure that what a build (run) or the tests (check) need is installed.
#
# Where there is apt, what is missing is installed; elsewhere it is listed with its source.
set -eu
need=""
has_header() { printf '#include <%s>\n' "$1" | ${CC:-cc} -E -x c - >/dev/null 2>&1; }
want() { need="$need $1"; }

command -v "${CC:-cc}" >/dev/null 2>&1 || want gcc
command -v pkg-config >/dev/null 2>&1 || want pkg-config
{ has_header stdint.h; } || want libc6-dev
{ has_header microhttpd.h && pkg-config --exists libmicrohttpd; } 2>/dev/null || want libmicrohttpd-dev
{ pkg-config --exists libcjson; } 2>/dev/null || want libcjson-dev
if [ "${1:-run}" = check ]; then
    { pkg-config --exists check; } 2>/dev/null || want check
    command -v python3 >/dev/null 2>&1 || want python3
    python3 -m venv --help >/dev/null 2>&1 || want python3-venv
    command -v curl >/dev/null 2>&1 || want curl
fi
if [ "${1:-run}" = lint ]; then
    for tool in clang-format clang-tidy cppcheck; do
        command -v $tool >/dev/null 2>&1 || want $tool
    done
fi
[ -n "$need" ] || exit 0

if command -v apt-get >/dev/null 2>&1; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing:$need"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $need >/dev/null
    exit 0
fi
cat >&2 <<EOF
Missing (Debian package names):$need
  libmicrohttpd-dev  GNU libmicrohttpd 0.9.75 or newer, with its header and pkg-config file
  libcjson-dev       cJSON 1.7 or newer
  check              the Check unit test framework 0.15 or newer (tests only)
Install them with the package manager of this system and try again.
EOF
exit 1
