#!/bin/sh
# Fails, with the difference, if a generated file is missing, stale or left over,
# or if config/crd/kustomization.yaml leaves out a definition. The Helm chart, the
# OLM bundle and docs/api.md are made of config/, with the images of the checked-in bundle.
set -eu
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/api" "$tmp/crd"
hack/generate.sh "$tmp/api" "$tmp/crd"
cp config/crd/kustomization.yaml "$tmp/crd" # the one file there that is written by hand

status=0
diff -u api/v1alpha1/zz_generated.deepcopy.go "$tmp/api/zz_generated.deepcopy.go" || status=1
diff -ru config/crd "$tmp/crd" || status=1
env -u MANAGER_IMAGE -u AGENT_IMAGE -u BUNDLE_IMAGE -u BUNDLE_VERSION -u BUNDLE_REPLACES go -C hack/packaging run ./generate "$PWD" "$tmp"
for made in charts/portreeve/templates bundle bundle.Dockerfile catalog catalog.Dockerfile docs/api.md; do
	diff -ru "$made" "$tmp/$made" || status=1
done
if [ $status != 0 ]; then
	echo "generated files are not current: run make generate" >&2
fi
for file in "$tmp"/crd/*_*.yaml; do
	if ! grep -qxF -e "- ${file##*/}" config/crd/kustomization.yaml; then
		echo "config/crd/kustomization.yaml does not list ${file##*/}" >&2
		status=1
	fi
done
exit $status
