#!/bin/sh
# Prints the path of the lab's control plane (lab/controlplane), building it
# first when this machine has none for these sources and this Go. A cold build
# takes about five minutes and 2.5 GiB of memory, so the binary is kept in a cache
# that survives `git clean` and is shared by all working copies.
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

src=lab/controlplane
hash=$({ cat "$src/go.mod" "$src/go.sum" "$src/main.go"; go version; } | sha256sum | cut -c1-16)
out=$cache/controlplane-$hash

if [ "${1:-}" = --where ]; then # where it would be, without building
	echo "$out"
	exit 0
fi

if [ ! -x "$out" ]; then
	mkdir -p "$cache"
	(
		flock 9 # two builds at once would need twice the memory for one result
		[ -x "$out" ] && exit 0
		version=$(sed -n 's#^[[:space:]]*k8s.io/kubernetes ##p' "$src/go.mod")
		minor=${version#v*.}
		minor=${minor%%.*}
		echo "building the lab's control plane ($version), once; about five minutes ..." >&2
		pkg=k8s.io/component-base/version
		# Without these the server calls itself v0.0.0-master.
		ldflags="-s -w -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=$minor"
		(cd "$src" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$out.tmp" .) >&2
		mv "$out.tmp" "$out"
	) 9>"$cache/lock"
fi
echo "$out"
