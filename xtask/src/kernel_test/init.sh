#!/bin/busybox sh
# The first process of a machine. It reaches the host's files by virtiofs, puts the host's root below
# a file system in memory that takes all writes, and runs the command from there. All is done by
# busybox, which starts much faster in a machine of software than dynamic programs do.
set -e
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    [ ! -e "$module" ] || insmod "$module"
done
mount -t virtiofs host /vm
. /vm/run/settings
mount -t tmpfs -o size=75% memory /upper
mkdir /upper/upper /upper/work
mount -t overlay -o lowerdir=/vm/root,upperdir=/upper/upper,workdir=/upper/work overlay /new
mount -t tmpfs memory /new/run
mount -t tmpfs memory /new/tmp
version=$(uname -r)
mkdir -p "/new/lib/modules/$version" "/new$folder" /new/run/vm /dev/pts /dev/shm
mount --bind "/vm/modules/$version" "/new/lib/modules/$version"
mount --bind /vm/folder "/new$folder"
cp /bin/busybox /new/run/busybox
ln -s /proc/self/fd /dev/fd
for name in 0/stdin 1/stdout 2/stderr; do
    ln -s "fd/${name%/*}" "/dev/${name#*/}"
done
mount -t devpts devpts /dev/pts
mount -t tmpfs memory /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for name in dev proc sys; do
    mount --move "/$name" "/new/$name"
done
mount --move /vm /new/run/vm
ifconfig lo 127.0.0.1
exec switch_root /new /run/busybox sh /run/vm/run/main
