#!/bin/sh
# Prints a folder with an earlier version of everything: bin/ with its programs, bundle/
# and catalog/ as they were checked in. test/olm upgrades from it. What is built is kept
# in the cache, as by hack/tools.sh.
#
# Exit status 3: this clone has no such history.
#
#   PORTREEVE_CACHE   the cache folder; default ${XDG_CACHE_HOME:-~/.cache}/portreeve
set -eu

# The first commit whose bundle runs the agents. It knows neither gateways nor how traffic
# arrives at a Service: a definition, fields and rights are new since.
commit=d20896ddbee6983b2157351bad9a6f4a826a0349

cd "$(dirname "$0")/.."

# Under sudo, cron and CI the environment may have no HOME; go needs one too.
if [ -z "${HOME:-}" ]; then
	HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
	export HOME="${HOME:-/tmp}"
fi
cache=${PORTREEVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portreeve}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac

hash=$({ echo "$commit"; go version; } | sha256sum | cut -c1-16)
out=$cache/previous-$hash

if [ ! -d "$out" ]; then
	# A clone that somebody else owns is one all the same.
	git() { command git -c safe.directory='*' "$@"; }
	if ! git cat-file -e "$commit^{tree}" 2>/dev/null; then
		echo "hack/previous.sh: this clone has no commit $commit" >&2
		exit 3
	fi
	mkdir -p "$cache"
	(
		flock 9
		[ -d "$out" ] && exit 0
		echo "building the version of $(git show -s --format=%cs "$commit"), once ..." >&2
		tmp=$(mktemp -d "$cache/previous.XXXXXX")
		trap 'rm -rf "$tmp"' EXIT
		mkdir "$tmp/tree" "$tmp/out" "$tmp/out/bin"
		git archive "$commit" | tar -x -C "$tmp/tree"
		(cd "$tmp/tree" && GOWORK=off GOFLAGS=-buildvcs=false go build -o "$tmp/out/bin/" ./cmd/manager ./cmd/agent) >&2
		mv "$tmp/tree/bundle" "$tmp/tree/catalog" "$tmp/out/"
		chmod 755 "$tmp/out"
		mv "$tmp/out" "$out"
	) 9>"$cache/previous.lock"
fi
echo "$out"
