#!/bin/sh
# Copies iptables in both variants into a folder, with the libraries that it loads, whose
# they are, and nothing else. It runs in a Debian that has the package.
#
#   gather.sh DIR
set -eu
out=$1
mkdir -p "$out/usr/sbin" "$out/var/lib/dpkg/status.d" "$out/usr/share/doc"

take() { # the file behind each path, at that path
	for path in "$@"; do
		mkdir -p "$out$(dirname "$path")"
		cp -L "$path" "$out$path"
	done
}

nft=/usr/sbin/xtables-nft-multi legacy=/usr/sbin/xtables-legacy-multi
plugins=$(find /usr/lib -path '*/xtables/*.so')
# shellcheck disable=SC2086 # a list
libraries=$(ldd $nft $legacy $plugins | grep -o '/[^ ]*\.so[^ ]*' | sort -u)
# shellcheck disable=SC2086
take $nft $legacy $plugins
for library in $libraries; do
	case $library in */xtables/*) ;; *) take "$library" ;; esac
done

# One program under many names, by which it knows what to do.
for family in iptables ip6tables; do
	for action in '' -save -restore; do
		ln -s xtables-nft-multi "$out/usr/sbin/$family-nft$action"
		ln -s xtables-nft-multi "$out/usr/sbin/$family$action"
		ln -s xtables-legacy-multi "$out/usr/sbin/$family-legacy$action"
	done
done

# What is in here, for those who look for flaws in it, and its licences.
# shellcheck disable=SC2086
for path in $nft $legacy $plugins $libraries; do
	# Where /lib is a link, dpkg knows a file by either path.
	dpkg -S "$path" 2>/dev/null || dpkg -S "$(realpath "$path")" 2>/dev/null || dpkg -S "/usr$path" 2>/dev/null || dpkg -S "${path#/usr}"
done | sed 's/: .*//' | sort -u | while read -r package; do
	name=${package%%:*}
	dpkg-query -s "$package" >"$out/var/lib/dpkg/status.d/$name"
	mkdir -p "$out/usr/share/doc/$name"
	cp -L "/usr/share/doc/$name/copyright" "$out/usr/share/doc/$name/"
done
