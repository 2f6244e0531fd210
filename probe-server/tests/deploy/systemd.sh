#!/bin/bash
# The unit file under a real systemd, in namespaces of its own: ready, healthy, reloaded, restarted with the sockets that
# systemd kept, not reloaded from a wrong file, alive after the watchdog's time, stopped. Run by tests/deploy.rs; root and systemd are needed.
#   systemd.sh PROGRAM DEPLOY-DIRECTORY WORK-DIRECTORY
# What happened is left in WORK-DIRECTORY/result, a line a step.
set -euo pipefail
program=$1 deploy=$2 work=$3

if [ "${4:-}" != inside ]; then
    # A control group of its own: its systemd takes what it is in for all there is.
    groups=/sys/fs/cgroup/systemd
    [ -d $groups ] || groups=/sys/fs/cgroup
    own=$groups/unit-test-$$
    mkdir "$own"
    trap 'echo $$ >$groups/cgroup.procs; find "$own" -depth -type d -exec rmdir {} +' EXIT
    echo $$ >"$own/cgroup.procs"
    unshare --mount --pid --net --uts --ipc --cgroup --kill-child "$0" "$program" "$deploy" "$work" inside || true
    exit 0
fi

# A copy of the file system of which nothing is kept, with what a system has of its own.
mount --make-rprivate /
mkdir -p "$work/copy"
mount -t tmpfs none "$work/copy"
mkdir "$work/copy/"{changes,scratch,root}
root=$work/copy/root
mount -t overlay none -o "lowerdir=/,upperdir=$work/copy/changes,workdir=$work/copy/scratch" "$root"
mount -t proc none "$root/proc"
mount -t sysfs none "$root/sys"
if grep -q name=systemd /proc/self/cgroup; then
    mount -t tmpfs none "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd none "$root/sys/fs/cgroup/systemd"
else
    mount -t cgroup2 none "$root/sys/fs/cgroup"
fi
mount --rbind /dev "$root/dev"
for fresh in run tmp; do mount -t tmpfs none "$root/$fresh"; done
mkdir "$root/outside" "$root/result"
mount --bind "$work" "$root/result"
ip link set lo up

units=$root/etc/systemd/system
cp "$program" "$root/usr/local/bin/probe-server"
cp "$deploy/probe-server.service" "$units/"
printf '%s\n' 'primary = ["127.0.0.1"]' 'alternate = ["127.0.0.2"]' 'admin = "9478"' >"$root/etc/probe-server.toml"
# Nothing of the machine's own may start.
for unit in systemd-udevd systemd-udev-trigger systemd-networkd systemd-resolved systemd-logind systemd-timesyncd dbus; do
    ln -sf /dev/null "$units/$unit.service"
done
ln -sf /dev/null "$units/dbus.socket"
ln -sf /dev/null "$units/network-online.target"
cat >"$units/judge.service" <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/bash /judge.sh
UNIT
cat >"$units/judge.target" <<'UNIT'
[Unit]
Requires=basic.target judge.service
AllowIsolate=yes
UNIT
cat >"$root/judge.sh" <<'JUDGE'
say() { echo "$*" >>/result/result; }
ask() { exec 3<>/dev/tcp/127.0.0.1/9478 && printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3 && tail -n 1 <&3 | tr -d '\r'; }
shows() { systemctl show probe-server --property "$1" --value; }
systemctl start probe-server
say "started: $? $(shows ActiveState)"
say "health: $(ask)"
systemctl reload probe-server
say "reloaded: $? $(shows ActiveState)"
systemctl restart probe-server
say "restarted: $? $(shows ActiveState)"
echo 'bogus = 1' >>/etc/probe-server.toml
systemctl reload probe-server
sleep 40 # the watchdog's 30 s and some
say "later: $(shows ActiveState), restarts $(shows NRestarts)"
say "health: $(ask)"
systemctl stop probe-server
say "stopped: $(shows Result) $(shows ExecMainStatus)"
journalctl --unit probe-server --output cat --no-pager >/result/log
systemctl poweroff --force --force
JUDGE

mount --rbind "$root" "$root"
cd "$root"
pivot_root . outside
umount --lazy /outside
exec /usr/bin/env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=judge.target --log-target=console --show-status=no
