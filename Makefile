# Portreeve. `make` or `make help` lists what can be made.

.DEFAULT_GOAL := help
# The targets share the kernel, the caches and two processors.
.NOTPARALLEL:

# Under sudo, cron and CI the environment may have no HOME, which go needs.
ifndef HOME
export HOME := $(or $(shell getent passwd $$(id -u) | cut -d: -f6),/tmp)
endif

# Tools are built on first use: hack/tools/go.mod has their versions.
tool = $$(hack/tools.sh $(1))

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^## /{printf "\n%s\n", substr($$0, 4)} /^[a-z.-]+:.*## /{printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## See it work (as root; Debian packages that are missing are named and installed)

.PHONY: demo
demo: preflight controlplane ## The main job on three nodes, told step by step; leaves nothing behind
	go run ./test/demo

.PHONY: demo-up
demo-up: preflight controlplane ## Keep the demo's cluster running, to explore with kubectl
	go run ./test/demo up

.PHONY: demo-down
demo-down: ## Remove what demo-up left running
	go run ./test/demo down

## Test (as root, likewise)

.PHONY: test
test: preflight controlplane ## All tests; the last line has the counts
	go run ./hack/gotest

.PHONY: test-unit
test-unit: ## The tests that need neither root nor a lab, under the race detector
	go run ./hack/gotest unit

.PHONY: test-olm
test-olm: preflight controlplane olm-programs ## A real OLM installs us from the catalog, and upgrades us under traffic
	go run ./hack/gotest olm

.PHONY: soak
soak: preflight controlplane ## The same tests at full scale; takes hours
	PORTREEVE_SCALE=soak go run ./hack/gotest

# BENCH='Datapaths|OwnSets|Revocation|Agent' measures the datapaths and the agent alone, in minutes.
BENCH ?= .
.PHONY: bench
bench: preflight controlplane ## The goals in numbers; a missed one is printed as MISSED
	go test -run '^$$' -bench '$(BENCH)' -benchtime 1x -count 1 -timeout 2h ./test/bench/...

.PHONY: test-images
test-images: preflight controlplane ## Build both images by buildah, of Debian and the Go that are here, and run them in the lab
	images=$$(hack/image/build.sh) && PORTREEVE_IMAGES=$$images go test -count=1 -v ./test/images

.PHONY: teeth
teeth: preflight controlplane ## Break the code in one place at a time; a test must fail for each
	go run ./hack/teeth

## Change it

.PHONY: build
build: ## The programs, into bin/
	go build -o bin/ ./cmd/...

.PHONY: generate
generate: ## Deepcopy functions and CRDs, from the types in api/; the Helm chart and the OLM bundle
	hack/generate.sh api/v1alpha1 config/crd
	env -u MANAGER_IMAGE -u AGENT_IMAGE -u BUNDLE_IMAGE -u BUNDLE_VERSION -u BUNDLE_REPLACES go -C hack/packaging run ./generate $(CURDIR) $(CURDIR)

.PHONY: lint
lint: ## golangci-lint with the import rules, what is linked into each program, workflows
	$(call tool,golangci-lint) run ./...
	cd hack/packaging && $$(../tools.sh golangci-lint) run --config ../../.golangci.yml ./...
	hack/deps.sh
	$(call tool,actionlint) -shellcheck= -pyflakes= .github/workflows/*.yml

.PHONY: verify-generated
verify-generated: ## Fail if generated files are not current
	hack/verify-generated.sh

.PHONY: vuln
vuln: ## Known vulnerabilities in what we call (asks the Go vulnerability database)
	go run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

## Install it

.PHONY: manifests
manifests: dist/install.yaml ## dist/install.yaml, with all that `kubectl apply` needs

.PHONY: dist/install.yaml
dist/install.yaml:
	mkdir -p dist
	$(MAKE) -s install-yaml >$@.tmp
	mv $@.tmp $@

.PHONY: install-yaml
install-yaml:
	@$(call tool,kustomize) build config/default

.PHONY: bundle
bundle: ## The OLM bundle and its catalog, with MANAGER_IMAGE, AGENT_IMAGE, BUNDLE_IMAGE, BUNDLE_VERSION and BUNDLE_REPLACES
	MANAGER_IMAGE=$(MANAGER_IMAGE) AGENT_IMAGE=$(AGENT_IMAGE) BUNDLE_IMAGE=$(BUNDLE_IMAGE) BUNDLE_VERSION=$(BUNDLE_VERSION) BUNDLE_REPLACES=$(BUNDLE_REPLACES) \
		go -C hack/packaging run ./generate $(CURDIR) $(CURDIR)

CONTAINER_TOOL ?= docker
TAG ?= latest
IMAGE_ARGS = --build-arg VERSION=$(TAG) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown)
.PHONY: images
images: ## portreeve-manager:TAG and portreeve-agent:TAG, by CONTAINER_TOOL (docker)
	$(CONTAINER_TOOL) build $(IMAGE_ARGS) --target manager -t portreeve-manager:$(TAG) .
	$(CONTAINER_TOOL) build $(IMAGE_ARGS) --target agent -t portreeve-agent:$(TAG) .

.PHONY: image
image: ## The same by buildah
	$(MAKE) images CONTAINER_TOOL=buildah

.PHONY: clean
clean: ## Remove what was built here; the caches outside the tree stay
	rm -rf bin dist

# What the targets above need.

.PHONY: preflight
preflight:
	hack/preflight --install

.PHONY: controlplane
controlplane:
	@hack/controlplane.sh >/dev/null

.PHONY: olm-programs
olm-programs:
	@for program in opm olm catalog; do hack/tools.sh $$program >/dev/null || exit; done
