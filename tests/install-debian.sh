#!/bin/bash
# Installs what the tests need from Debian, by name. Does nothing, quickly, when it is all there.
set -euo pipefail
packages=(curl fetchmail gcc getmail6 isync libc6-dev neomutt openssl python3 strace swaks tar util-linux xz-utils bsdutils findutils)
missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -o DPkg::Lock::Timeout=600)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}"
