#!/bin/bash
# Installs the peers for side-by-side figures: Cyrus IMAP, Dovecot and nginx as Debian ships them. Their own services are
# kept from starting; the figures start them from the configurations beside this file, on loopback addresses.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -o DPkg::Lock::Timeout=600)
have() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]; }

policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
missing=()
for package in cyrus-imapd cyrus-admin cyrus-common cyrus-murder dovecot-core nginx-light libnginx-mod-mail sasl2-bin \
  libsasl2-modules libsasl2-modules-db strace; do
  have "$package" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  "${apt[@]}" update
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
fi
# Both packages claim to be *the* imap-server, though no file of theirs clashes: Dovecot's parts are unpacked beside.
if [ ! -x /usr/lib/dovecot/imap ] || [ ! -x /usr/lib/dovecot/lmtp ]; then
  folder=$(mktemp -d)
  chmod 755 "$folder"
  (cd "$folder" && "${apt[@]}" download dovecot-imapd dovecot-lmtpd && for deb in ./*.deb; do dpkg -x "$deb" /; done)
  rm -rf "$folder"
fi
# Cyrus's frontends and backends look each other's ports up by these names, which Debian's list lacks.
for service in 'lmtp 24/tcp' 'mupdate 3905/tcp'; do
  grep -qE "^${service/ /[[:space:]]+}" /etc/services || echo "$service" >> /etc/services
done
