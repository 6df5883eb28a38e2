# The one binary of barcast; which role it plays is the command: serve, generate or replay.
# The same Debian as below: a binary built on a newer one would ask for a newer glibc.
FROM rust:1-slim-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin barcast

FROM debian:bookworm-slim
# The authorities that rediss:// may be asked to trust.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin barcast
COPY --from=build /build/target/release/barcast /usr/local/bin/barcast
USER barcast
ENV BARCAST_LISTEN=0.0.0.0:8000
EXPOSE 8000
# No HEALTHCHECK here: a generator and a gateway have different ones. See docker-compose.yml.
ENTRYPOINT ["barcast"]
CMD ["serve"]
