#!/usr/bin/env bash
# Makes the host that it runs in, namespaces of its own, look like one with a fresh Debian, and
# boots systemd there: the machine's /usr (read-only) and libc configuration, all else empty and in
# memory. Usage: host.sh NAME FOLDER LOWER_USR...
set -euo pipefail
name=$1 folder=$2 usr=$(IFS=:; echo "${*:3}")

mount -t tmpfs -o mode=755 host "$folder/root"
cp -r "$folder/files/." "$folder/root"
cd "$folder/root"
mkdir -p usr etc var run proc sys dev tmp root srv old
chmod 1777 tmp
chmod 700 root
for link in bin sbin lib lib64; do ln -s "usr/$link" "$link"; done
if [ "$usr" = /usr ]; then
  mount --rbind -o ro /usr usr
else
  mount -t overlay -o "ro,lowerdir=$usr" overlay usr
fi
mount -t tmpfs -o mode=755 local usr/local
mkdir -p usr/local/{bin,sbin,share/man} etc/{sysusers.d,tmpfiles.d}
cp -r /etc/{ld.so.cache,alternatives,login.defs,manpath.config,pam.d} etc/
echo "$name" > etc/hostname
: > etc/machine-id

mount -t proc proc proc
# Nothing in a host changes the machine's kernel.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs shm dev/shm
mount -t tmpfs -o mode=755 run run

hostname "$name"
# A real change of root: in a mere chroot the kernel refuses the units their user namespaces.
pivot_root . old
umount -l /old
rmdir /old
# As on a machine. In a container systemd does not do this, and gives a unit no credentials.
mount --make-rshared /
exec env -i container=namespaces PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
  /lib/systemd/systemd --system --log-target=journal-or-kmsg --show-status=no
