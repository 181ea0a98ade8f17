#!/bin/sh
# Builds both images with buildah on a machine that reaches no registry, and unpacks their
# root filesystems: the bases of the Dockerfile are made here, of Debian by debootstrap and
# of this machine's Go. As root.
#
#   hack/image/build.sh        prints the folder: manager/ and agent/ are the roots, and
#                              manager.json and agent.json the images' configurations
#
#   PORTREEVE_CACHE   the cache folder; default ${XDG_CACHE_HOME:-~/.cache}/portreeve
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

# Under sudo, cron and CI the environment may have no HOME; go needs one too.
if [ -z "${HOME:-}" ]; then
	HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
	export HOME="${HOME:-/tmp}"
fi
cache=${PORTREEVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portreeve}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac
work=$cache/images
mkdir -p "$work"
exec 9>"$cache/images.lock"
flock 9

absent=
for program in buildah debootstrap; do
	command -v $program >/dev/null || absent="$absent $program"
done
if [ -n "$absent" ]; then
	echo "installing:$absent" >&2
	export DEBIAN_FRONTEND=noninteractive
	install="apt-get install -y -q --no-install-recommends $absent"
	# shellcheck disable=SC2086 # a list
	{ $install || { apt-get update -q && $install; }; } >&2
fi

# A store of our own; no daemon, no container engine, no namespace but a chroot. Where the
# file system bears no overlay, vfs does the same with a copy for each layer.
driver=overlay
mkdir -p "$work/try/lower" "$work/try/upper" "$work/try/work" "$work/try/merged"
if mount -t overlay overlay -o "lowerdir=$work/try/lower,upperdir=$work/try/upper,workdir=$work/try/work" "$work/try/merged" 2>/dev/null; then
	umount "$work/try/merged"
else
	driver=vfs
fi
rm -rf "$work/try"
buildah="buildah --root $work/store-$driver --runroot $work/run-$driver --storage-driver $driver"
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=$driver

base=localhost/portreeve-test-base
if ! $buildah inspect --type image $base >/dev/null 2>&1; then
	echo "making a base image of Debian, once ..." >&2
	rm -rf "$work/debian"
	debootstrap --variant=minbase --include=ca-certificates bookworm "$work/debian" >"$work/debootstrap.log" ||
		{ tail -n 20 "$work/debootstrap.log" >&2; exit 1; }
	# apt as this machine has it: its mirror, and the way there.
	rm -rf "$work/debian/etc/apt/sources.list"*
	cp -rL /etc/apt/sources.list* "$work/debian/etc/apt/"
	container=$($buildah from scratch)
	$buildah copy -q "$container" "$work/debian" / >/dev/null
	$buildah config --env PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		--env GOTOOLCHAIN=local --env "GOPROXY=$(go env GOPROXY)" --env "GOSUMDB=$(go env GOSUMDB)" --env "GOFLAGS=-modcacherw" "$container"
	$buildah commit -q --rm "$container" $base >/dev/null
	rm -rf "$work/debian"
fi

for target in manager agent; do
	image=localhost/portreeve-$target
	# Go, its modules and what is compiled already are this machine's, or it would take minutes.
	$buildah build --layers --target $target --build-arg GO_IMAGE=$base --build-arg DEBIAN_IMAGE=$base \
		--build-arg VERSION=test --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
		--volume "$(go env GOROOT):/usr/local/go:ro" --volume "$(go env GOMODCACHE):/root/go/pkg/mod" --volume "$(go env GOCACHE):/root/.cache/go-build" \
		-t $image . >"$work/$target.log" 2>&1 || { tail -n 30 "$work/$target.log" >&2; exit 1; }
	container=$($buildah from --pull-never $image)
	rm -rf "${work:?}/$target"
	cp -a "$($buildah mount "$container")" "$work/$target"
	$buildah inspect --type image $image >"$work/$target.json"
	$buildah umount "$container" >/dev/null
	$buildah rm "$container" >/dev/null
done
echo "$work"
