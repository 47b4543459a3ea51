# The one image of Holdfast: both static binaries, CA certificates, and nothing else.
#   BUILD=source (default)  compiles them:                                  docker build -t holdfast .   (buildah 1.28 has to be told: --build-arg BUILD=source)
#   BUILD=local             takes prebuilt ones from dist/ of the context:  make image
ARG BUILD=source

FROM docker.io/library/debian:bookworm-slim AS files
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /root-of-image/etc/ssl/certs \
 && cp -L /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/ \
 && echo 'holdfast:x:65532:65532:Holdfast:/:/nonexistent' > /root-of-image/etc/passwd \
 && echo 'holdfast:x:65532:' > /root-of-image/etc/group

FROM docker.io/library/rust:1.95-bookworm AS binaries-source
WORKDIR /source
COPY . .
RUN target="$(uname -m)-unknown-linux-gnu" \
 && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target" -p holdfast-operator -p holdfast-agent \
 && mkdir /dist && cp "target/$target/release/holdfast-operator" "target/$target/release/holdfast-agent" /dist/

FROM files AS binaries-local
COPY dist/ /dist/

FROM binaries-${BUILD} AS binaries

FROM scratch
LABEL org.opencontainers.image.title=Holdfast \
      org.opencontainers.image.description="Kubernetes operator for database backups that are proven to restore" \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=files /root-of-image/ /
COPY --from=binaries /dist/holdfast-operator /dist/holdfast-agent /usr/local/bin/
ENV PATH=/usr/local/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/holdfast-operator"]
