#!/bin/sh
# Prints a folder with an earlier version of Portreeve: bin/ with manager and agent, and
# config/, bundle/ and catalog/ as far as they were there. Upgrades begin with it in the
# tests, and roll-backs end there. What is built, a minute cold, is kept in a cache that
# survives `git clean`.
#
#   hack/earlier.sh unbundled    for test/upgrade: no gateways, no fronts, no NetworkPolicies,
#                                no look at who carries node ports, and no agents that the
#                                manager runs; its nodes filter as ours do, by other rules
#   hack/earlier.sh bundled      for test/olm: the first whose bundle runs the agents; without
#                                gateways and how traffic arrives, so that a definition,
#                                fields and rights are new since
#
# Exit status 3: this copy has no such history (a shallow clone, an archive).
#
#   PORTREEVE_CACHE   the cache folder; default ${XDG_CACHE_HOME:-~/.cache}/portreeve
set -eu

case ${1:-} in
unbundled) commit=c930aab0baf92de188f475ddad86ae0036b7efa6 ;;
bundled) commit=d20896ddbee6983b2157351bad9a6f4a826a0349 ;;
*)
	echo "usage: hack/earlier.sh unbundled | bundled" >&2
	exit 2
	;;
esac

cd "$(dirname "$0")/.."

# Under sudo, cron and CI the environment may have no HOME; go needs one too.
if [ -z "${HOME:-}" ]; then
	HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
	export HOME="${HOME:-/tmp}"
fi
cache=${PORTREEVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portreeve}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac

out=$cache/earlier-$({ echo $commit; go version; } | sha256sum | cut -c1-16)
if [ ! -d "$out" ]; then
	# A clone may belong to somebody else, as under sudo.
	git() { command git -c safe.directory='*' "$@"; }
	if ! git cat-file -e "$commit^{tree}" 2>/dev/null; then
		echo "hack/earlier.sh: this copy of the repository has no commit $commit" >&2
		exit 3
	fi
	mkdir -p "$cache"
	(
		flock 9 # two builds at once would do the same work twice
		[ -d "$out" ] && exit 0
		echo "building the version of $(git show -s --format=%cs "$commit"), once ..." >&2
		tmp=$(mktemp -d "$cache/earlier.XXXXXX")
		trap 'rm -rf "$tmp"' EXIT
		mkdir "$tmp/tree" "$tmp/out" "$tmp/out/bin"
		git archive "$commit" | tar -x -C "$tmp/tree"
		(cd "$tmp/tree" && GOWORK=off GOTMPDIR="$tmp" go build -buildvcs=false -o "$tmp/out/bin/" ./cmd/manager ./cmd/agent) >&2
		for folder in config bundle catalog; do
			[ ! -d "$tmp/tree/$folder" ] || mv "$tmp/tree/$folder" "$tmp/out/"
		done
		chmod 755 "$tmp/out"
		mv "$tmp/out" "$out"
	) 9>"$cache/earlier.lock"
fi
echo "$out"
