"""What makes a new board type its line itself: files that Raspberry Pi Imager and cloud-init take.

``user-data`` is cloud-init's (Raspberry Pi OS from 13 on, Ubuntu): ``rpi-imager --cli
--cloudinit-userdata FILE``, or a file of that name on the card's boot partition. ``firstrun.sh`` is
that of Raspberry Pi OS before (``--first-run-script FILE``): it runs before there is a network, so
it leaves a service that joins once there is one, and goes.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

_LINE: Final = "echo TOKEN | sudo python3 -c 'LINE'"
_SERVICE: Final = "shoal-join.service"
_FIRST_RUN: Final = f"""\
#!/bin/bash
# At the first boot: leaves a service that types the line of this fleet once there is a network.
set -u
cat > /usr/local/sbin/shoal-join <<'SHOAL_LINE'
#!/bin/sh
sudo() {{ "$@"; }}
{{line}}
code=$?
[ "$code" -eq 0 ] || exit "$code"
systemctl disable {_SERVICE}
rm -f /etc/systemd/system/{_SERVICE} /usr/local/sbin/shoal-join
SHOAL_LINE
chmod 700 /usr/local/sbin/shoal-join
cat > /etc/systemd/system/{_SERVICE} <<'SHOAL_UNIT'
[Unit]
Description=Joins this board to its fleet
Wants=network-online.target
After=network-online.target time-sync.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/shoal-join
Restart=on-failure
RestartSec=30
[Install]
WantedBy=multi-user.target
SHOAL_UNIT
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -sf ../{_SERVICE} /etc/systemd/system/multi-user.target.wants/{_SERVICE}
for boot in /boot/firmware /boot; do
  [ -f "$boot/cmdline.txt" ] && sed -i 's| systemd.run.*||g' "$boot/cmdline.txt"
  rm -f "$boot/firstrun.sh"
done
exit 0
"""


def cloud_config(line: str) -> str:
    """cloud-init's ``user-data`` for a board that is to type a line."""
    text = (resources.files("firmware_configs") / "linux/cloud-init.yaml").read_text("utf-8")
    assert text.count(_LINE) == 1
    return text.replace(_LINE, line)


def first_run(line: str) -> str:
    """``firstrun.sh`` for a board that is to type a line."""
    return _FIRST_RUN.replace("{line}", line)


def of(name: str, line: str) -> str:
    """The file of a name: a shell script (``.sh``), or cloud-init's."""
    return first_run(line) if name.endswith(".sh") else cloud_config(line)
