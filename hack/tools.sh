#!/bin/sh
# Prints the path of a tool of hack/tools, hack/tools/actionlint or hack/olm, building it first
# when this machine has none of that version made by this Go. golangci-lint takes some
# three minutes, as do OLM's programs together, so the binaries are kept in a cache that
# survives `git clean` and is shared by all working copies.
#
#   hack/tools.sh controller-gen | kustomize | golangci-lint | actionlint | olm | catalog | opm
#   hack/tools.sh --where NAME    where it would be, without building
#
#   PORTREEVE_CACHE   the cache folder; default ${XDG_CACHE_HOME:-~/.cache}/portreeve
set -eu

cd "$(dirname "$0")/.."

# Under sudo, cron and CI the environment may have no HOME; go needs one too.
if [ -z "${HOME:-}" ]; then
	HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
	export HOME="${HOME:-/tmp}"
fi
cache=${PORTREEVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portreeve}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac

build=yes
if [ "${1:-}" = --where ]; then
	build=no
	shift
fi
name=${1:?which tool}
for src in hack/tools hack/tools/actionlint hack/olm; do
	package=$(sed -n "/^tool (/,/^)/s#^[[:space:]]*\(.*/$name\(/v[0-9]*\)\{0,1\}\)\$#\1#p; s#^tool \(.*/$name\)\$#\1#p" "$src/go.mod")
	[ -z "$package" ] || break
done
if [ -z "$package" ]; then
	echo "hack/tools.sh: neither hack/tools/go.mod nor hack/olm/go.mod has a tool $name" >&2
	exit 1
fi
tags=
[ $src != hack/olm ] || tags=containers_image_openpgp # else it wants gpgme, a C library

# go.sum holds the version of everything that is linked in; go.mod changes too
# often for nothing to be part of it.
hash=$({ cat "$src/go.sum"; go version; } | sha256sum | cut -c1-16)
out=$cache/tools-$hash/$name

if [ $build = no ]; then
	echo "$out"
	exit 0
fi
if [ ! -x "$out" ]; then
	mkdir -p "$(dirname "$out")"
	(
		flock 9 # two builds at once would do the same work twice
		[ -x "$out" ] && exit 0
		echo "building $name, once ..." >&2
		(cd "$src" && GOWORK=off CGO_ENABLED=0 go build -tags "$tags" -trimpath -buildvcs=false -ldflags '-s -w' -o "$out.tmp" "$package") >&2
		mv "$out.tmp" "$out"
	) 9>"$cache/tools.lock"
fi
echo "$out"
