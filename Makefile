# Runs with GNU make 3.81, which macOS ships. `make help` lists what there is.

# rustup puts cargo here; a fresh container often lacks it on PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO ?= cargo
COVERAGE_PERCENT_MIN ?= 85
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SCRIPTS := $(wildcard scripts/*.sh deploy/*.sh)

.DEFAULT_GOAL := help
# Cargo builds in parallel by itself and holds a lock while it does.
.NOTPARALLEL:

.PHONY: help
help: ## show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

## To see it work

.PHONY: demo
demo: redis build ## build, then a guided tour on a Redis of its own; ends by itself
	target/release/waooaw demo

.PHONY: build
build: rust ## build the release binary, target/release/waooaw
	$(CARGO) build --locked --release

.PHONY: redis
redis: ## print the path of a redis-server (7 or newer), installing one if there is none
	@sh scripts/get-redis.sh

## To know that it is right

.PHONY: test
test: lint shell unit doc redis deploy-tools it api-quick peers-quick ## everything that continuous integration runs

.PHONY: check
check: lint unit ## the quick part: format, clippy, unit tests; needs no Redis

.PHONY: lint
lint: rust-tools ## check the format; clippy on all targets and features, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings

.PHONY: shell
shell: ## check the shell scripts
	@for script in $(SCRIPTS); do echo "sh -n $$script"; sh -n "$$script" || exit 1; done
	bash -n .ci/run
	@if command -v shellcheck >/dev/null 2>&1; then echo shellcheck; shellcheck $(SCRIPTS) .ci/run; fi
	sh scripts/test-get-redis.sh
	sh scripts/test-get-deploy-tools.sh

.PHONY: unit
unit: rust ## unit tests, and the house rules that are read from the sources
	$(CARGO) test --locked --lib --bins --test tidy

.PHONY: doc
doc: rust ## examples in the documentation; build it, warnings denied
	$(CARGO) test --locked --doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

# Most of them wait for something most of the time, so that more than one a core at a time costs little.
TEST_THREADS ?= 3
.PHONY: it
it: rust redis ## integration tests, on redis-server processes that they start, TEST_THREADS (3) at a time
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked --test '*'

.PHONY: deploy-tools
deploy-tools: ## print the folder of the programs that check deploy/, getting those that are missing; installs nothing
	@sh scripts/get-deploy-tools.sh

.PHONY: deploy-test
deploy-test: rust redis deploy-tools ## check deploy/: manifests, compose file, alert rules, dashboard
	$(CARGO) test --locked --test it deploy::

BUILT = $(or $(CARGO_TARGET_DIR),target)
API_EXAMPLES ?= 100
.PHONY: api-test
api-test: rust redis ## hold a running replica against docs/openapi.json with schemathesis, API_EXAMPLES (100) of each kind
	$(CARGO) build --locked
	sh scripts/api-test.sh $(BUILT)/debug/waooaw $(API_EXAMPLES)

.PHONY: api-quick
api-quick: rust redis
	$(CARGO) build --locked
	API_TEST_OPTIONAL=1 sh scripts/api-test.sh $(BUILT)/debug/waooaw 5

SEEDS ?= 1..100
SECONDS ?= 15
JOBS ?= 4
.PHONY: chaos
chaos: rust redis ## break a running system by SEEDS (1..100) for SECONDS (15) each, JOBS (4) at a time, and check it
	$(CARGO) test --locked --test chaos -- --seeds $(SEEDS) --seconds $(SECONDS) --jobs $(JOBS)

MINUTES ?= 30
RATE ?= 50
.PHONY: soak
soak: rust redis ## a steady load of RATE (50) a second for MINUTES (30); fails when anything grows
	$(CARGO) test --locked --test soak -- --seconds $$(($(MINUTES) * 60)) --rate $(RATE)

# libFuzzer finds its way by coverage that the compiler counts, which its stable release does as well: no nightly and no
# cargo-fuzz are needed. The host is named, so that build scripts are not instrumented.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= envelope trigger config
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_FLAGS = --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares

.PHONY: fuzz
fuzz: rust ## fuzz each target for FUZZ_SECONDS (60); what fails is kept in fuzz/artifacts
	cp Cargo.lock fuzz/Cargo.lock
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --release --manifest-path fuzz/Cargo.toml --target $(FUZZ_HOST)
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p "fuzz/artifacts/$$target" "fuzz/target/corpus/$$target"; \
	  echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
	  "fuzz/target/$(FUZZ_HOST)/release/$$target" -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=5 -print_final_stats=1 \
	    -artifact_prefix="fuzz/artifacts/$$target/" "fuzz/target/corpus/$$target" "fuzz/corpus/$$target" || exit 1; \
	done

.PHONY: traces
traces: rust redis ## the tests of traces, in a program that is built to send them
	$(CARGO) test --locked --features otlp --lib spans::
	$(CARGO) test --locked --features otlp --test it traces::

.PHONY: coverage
coverage: rust redis ## line coverage of all tests, with a floor; needs cargo-llvm-cov
	@$(CARGO) llvm-cov --version >/dev/null 2>&1 || { echo "make coverage: get it with: cargo install --locked cargo-llvm-cov" >&2; exit 1; }
	$(CARGO) llvm-cov --locked --fail-under-lines $(COVERAGE_PERCENT_MIN)

.PHONY: deny
deny: rust ## advisories, licences and sources of the dependencies; needs cargo-deny
	@$(CARGO) deny --version >/dev/null 2>&1 || { echo "make deny: get it with: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --locked check

.PHONY: bench
bench: redis build ## measure throughput, latency, memory, scale and graphs on a Redis of its own
	$(CARGO) bench --locked
	target/release/waooaw bench all

ROUNDS ?= 3
.PHONY: peers
peers: redis build ## measure beside BullMQ, in turn, ROUNDS (3) times; needs npm
	sh scripts/peers.sh target/release/waooaw $(ROUNDS)

# Whether it works at all; its numbers say nothing.
.PHONY: peers-quick
peers-quick: rust redis
	$(CARGO) build --locked
	PEERS_OPTIONAL=1 sh scripts/peers.sh $(BUILT)/debug/waooaw 1 500

## Around it

.PHONY: fmt
fmt: rust-tools ## format the sources
	$(CARGO) fmt

.PHONY: image
image: ## build the container image
	docker build --build-arg VERSION=$(VERSION) -t waooaw/orchestration:$(VERSION) .

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean

.PHONY: rust
rust:
	@command -v $(CARGO) >/dev/null 2>&1 || { echo "No cargo found. Rust comes from https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null 2>&1 || { echo "No C compiler found, which Rust links with and the TLS library is built with. On Debian: apt-get install gcc libc6-dev; on macOS: xcode-select --install" >&2; exit 1; }

# The minimal profile of rustup, which container images use, leaves these two out.
.PHONY: rust-tools
rust-tools: rust
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy
