#!/usr/bin/env bash
# Provisions a Linux board: installs the agent for its own user, as a service.
#
#   sudo bash provision.sh agent.yaml WHEEL-OR-REQUIREMENT
#
# agent.yaml is what `shoal fleet enroll` wrote. It holds the device's private key: copy it
# over a trusted way and delete the copies. Run again to upgrade the agent or renew the file.
set -euo pipefail

config=${1:?usage: provision.sh agent.yaml WHEEL-OR-REQUIREMENT}
package=${2:?name the wheel: the name of the package on the public index belongs to nobody here}
here=$(cd "$(dirname "$0")" && pwd)

[ "$(id -u)" -eq 0 ] || { echo "error: run as root (sudo bash $0 ...)" >&2; exit 2; }
[ -r "$config" ] || { echo "error: cannot read $config" >&2; exit 2; }
grep -q '^trust_root:' "$config" || { echo "error: $config is not an agent.yaml" >&2; exit 2; }
python=$(command -v python3.11 || command -v python3) || {
  echo "error: Python 3.10 or newer is needed: apt-get install python3 python3-venv" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "error: $python is older than 3.10" >&2; exit 2; }

id -u shoal >/dev/null 2>&1 ||
  useradd --system --home-dir /var/lib/shoal --no-create-home --shell /usr/sbin/nologin shoal
# Readers of the board's temperature, where the board has such a group.
getent group video >/dev/null 2>&1 && usermod --append --groups video shoal

[ -x /opt/shoal/bin/python ] || "$python" -m venv /opt/shoal
extra=()
# 32-bit ARM: numpy, pyyaml, psutil, msgspec, zstandard and cffi come ready-made from piwheels.
[ "$(uname -m)" = armv7l ] && extra=(--extra-index-url "${PIWHEELS:?set PIWHEELS to the index of ready-made 32-bit ARM wheels}")
/opt/shoal/bin/pip install --quiet --disable-pip-version-check --upgrade "${extra[@]}" "$package"

install -d -m 0750 -o root -g shoal /etc/shoal
# Beside the old one, which may hold the only key: it goes when the new one is whole.
new=/etc/shoal/.agent.yaml.new
install -m 0640 -o root -g shoal "$config" "$new"
# The service may write below /var/lib/shoal alone.
if ! grep -q '^state_dir: /' "$new"; then
  sed -i '/^state_dir:/d' "$new"
  echo 'state_dir: /var/lib/shoal' >> "$new"
fi
chown root:shoal "$new"
sync "$new"
mv -fT "$new" /etc/shoal/agent.yaml
install -m 0644 "$here/shoal-agent.service" /etc/systemd/system/shoal-agent.service
systemctl daemon-reload
systemctl enable shoal-agent.service
# What was installed now is what runs: releases that came over the air go.
systemctl stop shoal-agent.service
rm -rf /var/lib/shoal/program
systemctl restart shoal-agent.service
echo "provisioned: systemctl status shoal-agent; sudo -u shoal /opt/shoal/bin/shoal-agent status --config /etc/shoal/agent.yaml"
