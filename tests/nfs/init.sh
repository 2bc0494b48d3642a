#!/bin/busybox sh
# The guest's first process: mounts what a Linux needs, starts the NFS server, runs the story and
# switches the machine off.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin LD_LIBRARY_PATH=/lib/x86_64-linux-gnu
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
for module in /modules/*; do insmod "$module" || echo "WRONG: cannot load $module"; done
hostname guest
ip link set lo up
mount -t ext4 /dev/vda /export
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs rpc /var/lib/nfs/rpc_pipefs
# A server that has just been started grants no locks for a while: 10 s at least, and by default 90.
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
printf 3 >/sys/module/lockd/parameters/nlm_timeout
printf 3 >/sys/module/lockd/parameters/nlm_grace_period
rpcbind
rpc.statd --no-notify
exportfs -ra
rpc.mountd
rpc.nfsd 8
. /variables
echo "booted in $(cut -d' ' -f1 /proc/uptime) s"
sh /story.sh
echo "story ended: $?"
poweroff -f
