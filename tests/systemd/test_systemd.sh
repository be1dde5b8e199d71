#!/bin/bash
# test_systemd.sh - install into a Debian root, boot systemd there, and use the service as an
# operator does: start, ask, reload, hang it, stop it.
#
# The root is built once, in build/systemd-root.  Skipped (77) where that is not possible: without
# root, debootstrap, or a mirror.
set -u
cd "$(dirname "$0")/../.." || exit 1
O=${O:-build/release}
root=$PWD/build/systemd-root
skip() {
    echo "$1"
    exit 77
}
[ "$(id -u)" = 0 ] || skip "needs root"
for tool in debootstrap unshare script; do
    command -v $tool >/dev/null || skip "needs $tool"
done
[ -x "$O/fathomd" ] || { echo "there is no $O/fathomd"; exit 1; }
if [ ! -e "$root/.complete" ]; then
    rm -rf "$root"
    tests/systemd/sandbox.sh make "$root" procps libmicrohttpd12 libcjson1 >"$root.log" 2>&1 ||
        skip "debootstrap failed: $(tail -n 1 "$root.log")"
    touch "$root/.complete"
fi
rm -rf "$root/etc/fathom" "$root/etc/systemd/system/fathomd.service.d" "$root/var/lib/fathom"
make --no-print-directory install O="$O" DESTDIR="$root" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log"; exit 1; }
cp tests/systemd/inside.sh "$root/inside.sh"
exec tests/systemd/sandbox.sh run "$root" /inside.sh
