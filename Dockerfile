# The gateway alone in an empty image: one static binary, no shell, no user database, nothing to write to.
#
#   podman build --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD) -t cobrowse-gateway:0.1.0 .
#
# With a binary that is built already (its folder in the place of the first stage), in a second:
#
#   podman build --build-context build=FOLDER -t cobrowse-gateway:0.1.0 .

FROM docker.io/library/rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# "--no-default-features" leaves the built-in visitor backend out.
ARG CARGO_FLAGS=""
RUN deploy/static-binary / ${CARGO_FLAGS}

FROM scratch
ARG VERSION="0.1.0"
ARG REVISION="unknown"
LABEL org.opencontainers.image.title="Cobrowse Gateway" \
      org.opencontainers.image.description="TLS, key, limit and base-path gateway in front of an on-premise cobrowsing service" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE /LICENSE
COPY --from=build /cobrowse-gateway /cobrowse-gateway
# Here gateway.toml is looked for; without one it is defaults and environment.
WORKDIR /etc/cobrowse-gateway
# Probes and scrapes come from outside the container. Do not publish this port.
ENV GATEWAY__ADMIN__LISTEN="0.0.0.0:9180"
EXPOSE 8443/tcp 9180/tcp
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/cobrowse-gateway", "healthcheck"]
ENTRYPOINT ["/cobrowse-gateway"]
