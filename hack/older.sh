#!/bin/sh
# Prints a folder with an older version of Portreeve, building it first when this machine
# has none made by this Go: bin/ with manager and agent, config/ with the CRDs and the RBAC
# of that time. test/upgrade upgrades from it and rolls back to it. It is kept in a cache
# that survives `git clean`: a cold build takes a minute.
#
# Exit status 3: this copy has no history (a shallow clone, an archive).
#
#   PORTREEVE_CACHE   the cache folder; default ${XDG_CACHE_HOME:-~/.cache}/portreeve
set -eu

# No gateways, no fronts, no NetworkPolicies, no look at who carries node ports, and no agents
# that the manager runs. Its nodes filter as ours do, by other rules.
commit=c930aab0baf92de188f475ddad86ae0036b7efa6

cd "$(dirname "$0")/.."

# Under sudo, cron and CI the environment may have no HOME; go needs one too.
if [ -z "${HOME:-}" ]; then
	HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
	export HOME="${HOME:-/tmp}"
fi
cache=${PORTREEVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portreeve}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac

out=$cache/older-$({ echo $commit; go version; } | sha256sum | cut -c1-16)
if [ ! -d "$out" ]; then
	# A clone may belong to somebody else, as under sudo.
	git="git -c safe.directory=*"
	if ! $git cat-file -e "$commit^{tree}" 2>/dev/null; then
		echo "hack/older.sh: this copy of the repository has no commit $commit" >&2
		exit 3
	fi
	mkdir -p "$cache"
	(
		flock 9 # two builds at once would do the same work twice
		[ -d "$out" ] && exit 0
		echo "building the version that is upgraded from, once ..." >&2
		tmp=$(mktemp -d "$cache/older.XXXXXX")
		trap 'rm -rf "$tmp"' EXIT
		mkdir "$tmp/src" "$tmp/out"
		$git archive "$commit" | tar -x -C "$tmp/src"
		(cd "$tmp/src" && GOWORK=off GOTMPDIR="$tmp" go build -buildvcs=false -o "$tmp/out/bin/" ./cmd/manager ./cmd/agent) >&2
		mv "$tmp/src/config" "$tmp/out/config"
		mv "$tmp/out" "$out"
	) 9>"$cache/older.lock"
fi
echo "$out"
