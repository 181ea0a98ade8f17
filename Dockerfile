# Two images from one build, for each platform that Go and Debian have:
#
#   docker build --target manager -t portreeve-manager .
#   docker build --target agent -t portreeve-agent .
#
# Neither has a shell, a package manager or a file that its program does not use, and both
# run with a read-only root filesystem. What they are made of can be pinned by digest:
#
#   --build-arg GO_IMAGE=docker.io/library/golang@sha256:...
#
# as .github/workflows/release.yml does for every release.
ARG GO_IMAGE=docker.io/library/golang:1.26-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim

# Go compiles for any platform, so this stage runs on the builder's own.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api/ api/
COPY cloud/ cloud/
COPY cmd/ cmd/
COPY config/agent/ config/agent/
COPY controllers/ controllers/
COPY datapath/ datapath/
COPY internal/ internal/
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH
RUN go build -trimpath -buildvcs=false \
      -ldflags "-s -w ${VERSION:+-X github.com/portreeve/portreeve/internal/version.Number=${VERSION#v}}" -o /out/ ./cmd/manager ./cmd/agent

# Beside its program the agent needs iptables in both variants, legacy and nft, of which
# it uses the one that Kubernetes uses on its node. ipset, conntrack, nf_tables and
# addresses it asks of the kernel itself.
FROM ${DEBIAN_IMAGE} AS iptables
RUN apt-get update && apt-get install -y --no-install-recommends iptables
COPY hack/image/gather.sh /
RUN sh /gather.sh /out

# One static program, what it needs to trust a cloud's API, and no user but its own.
FROM scratch AS manager
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/manager /usr/local/bin/manager
ENV PATH=/usr/local/bin
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/manager"]
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Portreeve manager" \
      org.opencontainers.image.description="Gives node ports from a team's pool, and says who may come in" \
      org.opencontainers.image.source="https://github.com/portreeve/portreeve" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION

# Root, since iptables insists; config/agent drops all of its capabilities but three.
FROM scratch AS agent
COPY --from=iptables /out/ /
COPY --from=build /out/agent /usr/local/bin/agent
ENV PATH=/usr/local/bin:/usr/sbin
ENTRYPOINT ["/usr/local/bin/agent"]
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Portreeve agent" \
      org.opencontainers.image.description="Keeps a node's kernel in step with who may reach its node ports" \
      org.opencontainers.image.source="https://github.com/portreeve/portreeve" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION
