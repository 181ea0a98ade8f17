#!/bin/sh
# Looks at all that is linked into each program, which the linter's import rules
# can't see: the agent, on every node, holds no cloud SDK; the manager, which holds
# the cloud's credentials, no kernel code; what people run has neither; none holds test
# equipment. And that the images are built of all of it.
set -eu
cd "$(dirname "$0")/.."

status=0
check() { # check PROGRAM PATTERN...: no import path of PROGRAM matches
	program=$1
	shift
	deps=$(go list -deps "./cmd/$program") # not in the pipe: its failure counts
	for pattern in "$@" '^testing$' '/cloudtest$' '/datapathtest$' '^github.com/portreeve/portreeve/(lab|test)(/|$)'; do
		if found=$(printf '%s\n' "$deps" | grep -E "$pattern"); then
			printf 'cmd/%s links what it must not (%s):\n%s\n' "$program" "$pattern" "$found" >&2
			status=1
		fi
	done
}

# The images are built of what the Dockerfile copies; .dockerignore lets in no more.
for package in $(go list -deps -f '{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}' ./cmd/manager ./cmd/agent); do
	folder=${package#"$PWD"/}
	copied=no
	for source in $(sed -n 's#^COPY \([a-z/]*\)/ .*#\1#p' Dockerfile); do
		case $folder/ in "$source"/*) grep -qxF "!$source" .dockerignore && copied=yes ;; esac
	done
	if [ $copied = no ]; then
		echo "the Dockerfile, or .dockerignore, leaves out $folder" >&2
		status=1
	fi
done

check agent '^github.com/portreeve/portreeve/(cloud|controllers)(/|$)' '^github.com/(aws|aliyun)/'
check manager '^github.com/portreeve/portreeve/(datapath|internal/agent)(/|$)' \
	'^github.com/(vishvananda|google/nftables|cilium/ebpf)(/|$)' '/go-iptables(/|$)'
check kubectl-portreeve '^github.com/portreeve/portreeve/(cloud|controllers|datapath|internal/agent)(/|$)' '^github.com/(aws|aliyun|vishvananda)/'
exit $status
