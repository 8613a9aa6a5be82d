# The image of the orchestration runtime: one binary, no root, nothing to write.
#
# Inside a container the default address 127.0.0.1:8001 is not reachable from outside. The service
# binds elsewhere only with tokens configured, so give it both:
#
#   docker run --read-only -p 8001:8001 \
#     -e REDIS_URL=redis://redis.internal:6379 \
#     -e WAOOAW_HTTP__ADDR=0.0.0.0:8001 \
#     -e WAOOAW_ENV=production -v "$PWD/production.toml:/app/config/production.toml:ro" \
#     waooaw/orchestration
#
# with, in production.toml (the token itself comes from a mounted secret):
#
#   [http]
#   tokens = [{ token_file = "/run/secrets/waooaw-admin", role = "admin" }]
#
# Redis is not part of the image: `dev` and `demo`, which start one, are for a clone.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# Both caches outlive a change of the sources, so that dependencies are compiled once. The crate's
# own roots are touched because cargo compares times, and a clone may be older than the cache.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    touch src/lib.rs src/main.rs \
    && cargo build --locked --release \
    && install -D target/release/waooaw /out/waooaw

FROM debian:bookworm-slim
ARG VERSION=dev
LABEL org.opencontainers.image.title="WAOOAW Orchestration Runtime" \
      org.opencontainers.image.description="Turns trigger events on a Redis Stream into prioritised tasks, runs them, and keeps a record that holds in an audit." \
      org.opencontainers.image.source="https://github.com/waooaw/orchestration" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# The roots that rediss:// and https:// handlers are verified against.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY LICENSE ./
COPY config ./config
COPY --from=build /out/waooaw /usr/local/bin/waooaw
# A number, because runAsNonRoot of Kubernetes can not check a name.
USER 10001:10001
EXPOSE 8001
# SIGTERM drains: claim no more, finish or hand back within shutdown.grace (30 s). `docker stop`
# waits only 10 s by default, so use `docker stop -t 45`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/usr/local/bin/waooaw", "health"]
ENTRYPOINT ["/usr/local/bin/waooaw"]
CMD ["serve"]
