#!/bin/bash
# boot_systemd.sh FOLDER PYTHON-SITE: boots a real systemd in a container whose / is a
# throw-away overlay of this machine's, and runs FOLDER/in_the_box.py in it as a unit.
# FOLDER is /box in the container, PYTHON-SITE is /opt/site, read only.
#
# Run it under `unshare --mount`: every mount of it ends with it, whatever happens.
set -eu
folder=$1 site=$2
mount --make-rprivate /
# A manager of this machine, if there is one, keeps its own; nspawn gets an empty one.
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
stage=$folder/stage
mkdir "$stage"
mount -t tmpfs tmpfs "$stage"
mkdir "$stage/up" "$stage/work" "$stage/root"
mount -t overlay overlay "$stage/root" \
    -o "lowerdir=/,upperdir=$stage/up,workdir=$stage/work"
units=$stage/root/etc/systemd/system
mkdir -p "$stage/root/box" "$stage/root/opt/site"
# Nothing of this machine starts in there, and its unit files do not count.
rm -rf "$units"
mkdir -p "$units/box.target.wants"
cat > "$units/box.target" <<END
[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
END
cat > "$units/box.service" <<END
[Unit]
After=basic.target dbus.service
Wants=dbus.service
[Service]
Type=oneshot
# A login's environment, without what makes Python look elsewhere.
ExecStart=/bin/sh -c '${PYTHON:-/usr/bin/python3} -I /box/in_the_box.py > /box/out 2>&1; echo \$? > /box/status'
ExecStopPost=systemctl --no-block poweroff
END
ln -s ../box.service "$units/box.target.wants/box.service"
ln -s box.target "$units/default.target"
exec systemd-nspawn --quiet --directory="$stage/root" --boot --register=no --keep-unit \
    --private-network --machine=superd-box --uuid="$(cat /proc/sys/kernel/random/uuid)" \
    --bind="$folder:/box" --bind-ro="$site:/opt/site" </dev/null >"$folder/console" 2>&1
