#!/bin/sh
# Unpacks the Chromium of Debian into a folder, without installing anything.
#   sh tools/get-chromium.sh ./chromium
# Then tests find it by DBSC_CHROMIUM=./chromium. Needs the package lists of apt.
set -eu
version=$(apt-cache policy chromium | awk '/Candidate:/ {print $2}')
[ -n "$version" ] || { echo "apt knows no chromium; run apt-get update" >&2; exit 1; }
mkdir -p "$1/.deb"
dir=$(cd "$1" && pwd)
cd "$dir/.deb"
# What an installation would add, libraries included; -s only simulates.
needed=$(apt-get install -s --no-install-recommends "chromium=$version" "chromium-common=$version" 2>/dev/null |
  awk '/^Inst/ && $2 !~ /^chromium/ {print $2}')
# shellcheck disable=SC2086
apt-get download -qq "chromium=$version" "chromium-common=$version" $needed
for package in *.deb; do dpkg -x "$package" "$dir"; done
rm -rf "$dir/.deb"
lib="$dir/usr/lib/$(dpkg-architecture -q DEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")"
echo "$lib:$lib/pulseaudio" >"$dir/ldpath"
LD_LIBRARY_PATH="$(cat "$dir/ldpath")" "$dir/usr/lib/chromium/chromium" --version
