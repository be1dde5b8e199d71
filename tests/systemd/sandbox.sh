#!/bin/bash
# sandbox.sh - a real systemd, as PID 1 of a namespace of its own, in a throw-away Debian root.
#
#   sandbox.sh make ROOT [PACKAGE...]   build the root once: debootstrap, about a minute, 300 MB
#   sandbox.sh run  ROOT SCRIPT         boot it, run SCRIPT (a path inside ROOT) once
#                                       multi-user.target is reached, print what it printed, power off;
#                                       the exit status is SCRIPT's, or 70 if it did not end
#
# Needs root, debootstrap and util-linux.  The network inside is a loopback of its own.
# SANDBOX_S limits the run in seconds (default 120).
set -eu
verb=${1:?make or run} root=$(realpath -m "${2:?ROOT}")
shift 2

make_root() {
    local packages=systemd,systemd-sysv,dbus,curl,iproute2
    for package in "$@"; do packages+=,$package; done
    debootstrap --variant=minbase --include="$packages" bookworm "$root"
}

# What PID 1 needs to find: mounts, devices, and cgroups in the layout of systemd's hybrid mode, which
# works whether the kernel outside has its controllers in version 1 or 2.
write_init() {
    cat >"$1" <<'INIT'
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
ip link set lo up
mount -t proc proc proc
mount -t sysfs sys sys
for dir in run tmp dev; do mount -t tmpfs tmpfs $dir; done
while read -r name major minor; do
    mknod -m 666 "dev/$name" c "$major" "$minor"
done <<'DEVICES'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
DEVICES
mkdir dev/shm dev/pts
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx dev/ptmx
mount -t tmpfs shm dev/shm
touch dev/console
mount --bind "$(tty)" dev/console
umount -R sys/fs/cgroup 2>/dev/null || true
mount -t tmpfs cg sys/fs/cgroup
mkdir sys/fs/cgroup/unified sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
mount -t cgroup2 none sys/fs/cgroup/unified
exec env -i container=sandbox PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --log-target=console
INIT
}

run_script() {
    local script=$1 init log wants=$root/etc/systemd/system/graphical.target.wants
    rm -f "$root/sandbox.status" "$root/sandbox.out"
    cat >"$root/etc/systemd/system/sandbox-run.service" <<UNIT
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash -c '/bin/bash $script >/sandbox.out 2>&1; echo \$? >/sandbox.status; sync; systemctl poweroff --force --force'
UNIT
    mkdir -p "$wants"
    # A login prompt hangs up its terminal, and that is the one that PID 1 runs on.
    ln -sf /dev/null "$root/etc/systemd/system/console-getty.service"
    ln -sf ../sandbox-run.service "$wants/sandbox-run.service"
    init=$(mktemp) log=$(mktemp)
    write_init "$init"
    timeout -k 5 "${SANDBOX_S:-120}" script -qec \
        "unshare --mount --pid --fork --uts --ipc --net --kill-child bash $init $root" "$log" \
        </dev/null >/dev/null 2>&1 || true
    if [ ! -f "$root/sandbox.status" ]; then
        tail -n 40 "$log"
        cat "$root/sandbox.out" 2>/dev/null || true
        echo "sandbox.sh: $script did not end within ${SANDBOX_S:-120} s" >&2
        exit 70
    fi
    cat "$root/sandbox.out"
    rm -f "$init" "$log"
    exit "$(cat "$root/sandbox.status")"
}

case $verb in
make) make_root "$@" ;;
run) run_script "${1:?SCRIPT}" ;;
*)
    echo "usage: $0 make|run ROOT ..." >&2
    exit 64
    ;;
esac
