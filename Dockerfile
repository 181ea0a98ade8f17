# Two images from one build:
#
#   docker build --target manager -t portreeve-manager .
#   docker build --target agent -t portreeve-agent .
#
# Both run with a read-only root filesystem.
ARG GO=1.26
ARG DEBIAN=bookworm

FROM --platform=$BUILDPLATFORM golang:${GO}-${DEBIAN} AS build
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
ARG TARGETOS TARGETARCH
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH
RUN go build -trimpath -buildvcs=false -ldflags "-s -w" -o /out/ ./cmd/manager ./cmd/agent

# One static program, what it needs to trust a cloud's API, and no user but its own.
FROM scratch AS manager
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/manager /usr/local/bin/manager
ENV PATH=/usr/local/bin
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/manager"]

# Beside its program the agent needs iptables in both variants, legacy and nft, of
# which it uses the one that Kubernetes uses on its node. ipset, conntrack and
# addresses it asks of the kernel itself.
FROM debian:${DEBIAN}-slim AS agent
RUN apt-get update \
 && apt-get install -y --no-install-recommends iptables \
 && rm -rf /var/lib/apt/lists/* \
 && for variant in iptables-nft iptables-legacy ip6tables-nft ip6tables-legacy; do \
      for program in $variant $variant-save $variant-restore; do command -v $program || exit 1; done; \
    done
COPY --from=build /out/agent /usr/local/bin/agent
ENTRYPOINT ["/usr/local/bin/agent"]
