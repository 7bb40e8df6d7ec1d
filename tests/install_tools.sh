#!/usr/bin/env bash
# Installs the programs that tests run, where apt is there and we may use it.
set -u
missing=()
need() { command -v "$1" >/dev/null 2>&1 || [ -x "${3:-/nonexistent}" ] || missing+=("$2"); }
need mosquitto mosquitto /usr/sbin/mosquitto
need mosquitto_sub mosquitto-clients
need pg_ctl postgresql "$(ls -d /usr/lib/postgresql/*/bin/pg_ctl 2>/dev/null | tail -n 1)"
need chromium chromium
need qemu-system-arm qemu-system-arm
need arm-none-eabi-gcc gcc-arm-none-eabi
need gcc gcc
need g++ g++
need make make
need systemd-analyze systemd
need ip iproute2
need openssl openssl
need faketime faketime
[ -e /usr/lib/arm-none-eabi/newlib/rdimon.specs ] || [ -e /usr/lib/arm-none-eabi/lib/rdimon.specs ] || missing+=(libnewlib-arm-none-eabi)
[ "${#missing[@]}" -eq 0 ] && exit 0
echo "test tools missing: ${missing[*]}"
if ! command -v apt-get >/dev/null 2>&1; then
  echo "no apt-get here: install them by hand, or tests that need them are skipped"
  exit 0
fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null; then sudo="sudo -n"; else
    echo "not root: run 'sudo apt-get install ${missing[*]}', or tests that need them are skipped"
    exit 0
  fi
fi
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
  echo "apt could not install them: tests that need them are skipped"
exit 0
