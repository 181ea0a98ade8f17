#!/bin/sh
# Generates deepcopy functions and CRDs from the types in api/v1alpha1.
#
#   hack/generate.sh DEEPCOPY-FOLDER CRD-FOLDER
set -eu
cd "$(dirname "$0")/.."
"$(hack/tools.sh controller-gen)" paths=./api/v1alpha1 \
	object output:object:dir="$1" \
	crd output:crd:dir="$2"
