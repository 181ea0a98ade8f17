#!/bin/sh
# Gets promtool and prometheus, with which the alerts are tried, out of Debian's package
# prometheus, and prints the path of promtool. The package itself is not installed: its
# service is none of ours.
#
#   PORTREEVE_CACHE   the cache folder; default ${XDG_CACHE_HOME:-~/.cache}/portreeve
set -eu

if [ -z "${HOME:-}" ]; then
	HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
	export HOME="${HOME:-/tmp}"
fi
cache=${PORTREEVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portreeve}

if command -v prometheus >/dev/null && command -v promtool; then exit 0; fi
if [ ! -x "$cache/promtool" ] || [ ! -x "$cache/prometheus" ]; then
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	cd "$tmp"
	apt-get -o APT::Sandbox::User=root download -q prometheus >&2
	dpkg -x prometheus_*.deb .
	mkdir -p "$cache"
	for program in promtool prometheus; do
		mv "usr/bin/$program" "$cache/$program.tmp"
		mv "$cache/$program.tmp" "$cache/$program"
	done
fi
echo "$cache/promtool"
