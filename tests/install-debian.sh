#!/bin/bash
# Installs what the tests need from Debian, by name. Does nothing, quickly, when it is all there.
set -euo pipefail
packages=(curl cyrus-admin e2fsprogs etcd-client etcd-server fetchmail gcc getmail6 gsasl iproute2 isync libc6-dev libsasl2-modules mount neomutt openssl postfix python3 strace swaks tar util-linux xz-utils bsdutils findutils)
missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
export DEBIAN_FRONTEND=noninteractive
# Postfix asks what it is for; the tests bring configurations of their own, and nothing is to run beside them.
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt=(apt-get -q -o DPkg::Lock::Timeout=600)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}"
