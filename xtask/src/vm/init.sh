#!/bin/busybox sh
# First process of the machine: makes a root file system fit to work in, loads the modules, runs
# /run-this and says on the console how it ended. It never returns.
/bin/busybox mkdir -p /usr/bin /usr/sbin /proc /sys /dev /run /tmp /root /var/tmp
/bin/busybox --install -s /usr/bin
# busybox's own shell would take its applets (ip, above all) for the programs of the same name.
[ -x /usr/bin/dash ] && ln -sf dash /usr/bin/sh
export PATH=/usr/local/bin:/usr/sbin:/usr/bin HOME=/root TERM=linux LANG=C.UTF-8 PORTOLAN_VM=1

finish() {
    # Kernel messages must not fall into the line that the host looks for.
    dmesg -n 1
    printf '\nportolan-vm: exit %s\n' "$1"
    sync
    # With qemu's -no-reboot this ends the machine at once; powering off would take longer.
    reboot -f
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
# Where the workspace is a directory of /tmp, it must not be hidden.
[ -n "$(ls -A /tmp)" ] || mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns /run/lock
ln -sf /proc/self/fd /dev/fd
ln -sf /run /var/run
# The host wants lines that end in \n alone.
stty -F /dev/console -onlcr 2>/dev/null
hostname portolan-vm
ip link set lo up
ulimit -n 1048576

modprobe -a $(cat /etc/modules) || finish "125 (modules)"

# Whatever hangs, the machine ends by itself, also when nobody watches it any more.
if [ -s /etc/time-limit ]; then
    ( sleep "$(cat /etc/time-limit)"; echo "portolan-vm: time limit"; finish 124 ) &
fi

read -r up _ < /proc/uptime
echo "portolan-vm: Linux $(uname -r), up in $up s"
if [ -e /etc/interactive ]; then
    setsid cttyhack /run-this
else
    /run-this </dev/null
fi
finish $?
