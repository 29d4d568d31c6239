#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# libvirtd.sh STATE RUN: libvirtd for one sandbox, without systemd and away from the machine's own.
#
# It runs in a mount namespace of its own, in which libvirt's directories under /etc, /run and /var
# are those of STATE: two sandboxes, and a libvirt of the machine's, do not see each other's guests.
# Its socket is RUN/libvirt-sock. Guests go on without it, as they do everywhere.
set -eu

if [ "${3:-}" != inside ]; then
    exec unshare --mount --propagation private "$0" "$1" "$2" inside
fi

state=$1 run=$2
mkdir -p "$state/bin" "$state/etc/libvirt"

for directory in /etc /run /var/cache /var/lib /var/log; do
    mkdir -p "$state$directory/libvirt" "$directory/libvirt"
    mount --bind "$state$directory/libvirt" "$directory/libvirt"
done

# libvirtd does not start unless the user exists that its package was built for, used or not.
for file in passwd group; do
    cp "/etc/$file" "$state/etc/$file"
    grep -q '^libvirt-qemu:' "$state/etc/$file" || case $file in
        passwd) echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' ;;
        group) echo 'libvirt-qemu:x:64055:' ;;
    esac >>"$state/etc/$file"
    mount --bind "$state/etc/$file" "/etc/$file"
done

# A guest gets a small environment of libvirt's own making. This puts in what the sandbox knows its
# processes by; libvirt takes the first of this name in the PATH.
cat >"$state/bin/qemu-system-x86_64" <<END
#!/bin/sh
export VMEXPIRE_SANDBOX='$VMEXPIRE_SANDBOX' VMEXPIRE_SANDBOX_SERVICE=guests
exec /usr/bin/qemu-system-x86_64 "\$@"
END
chmod +x "$state/bin/qemu-system-x86_64"

cat >/etc/libvirt/qemu.conf <<'END'
user = "root"
group = "root"
# No virtlogd, no SELinux or AppArmor, no cgroups: nothing here needs them.
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = []
namespaces = []
END
cat >/etc/libvirt/libvirtd.conf <<END
unix_sock_dir = "$run"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
END

PATH=$state/bin:$PATH
exec libvirtd --config /etc/libvirt/libvirtd.conf --pid-file "$run/libvirtd-own.pid"
