.DEFAULT_GOAL := help
.PHONY: help demo test api-check bench check drill fuzz nemesis zoo

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST)

demo: ## Runs the demo on private servers; ARGS="..." are its options
	@.ci/servers demo && NATS_SERVER=$$(.ci/nats) && export NATS_SERVER && cargo run --release --quiet --bin coupon -- demo $(ARGS)

test: ## Runs all tests on real servers
	@.ci/servers test && NATS_SERVER=$$(.ci/nats) && export NATS_SERVER && RUST_TEST_THREADS=4 cargo test --workspace --locked --features failpoints

api-check: ## Sends EXAMPLES (200) requests to each route, chosen by SEED (1), and compares the answers with the OpenAPI document
	@.ci/servers test && SEED=$(or $(SEED),1) EXAMPLES=$(or $(EXAMPLES),200) cargo test --locked --features failpoints --test it -- --exact schemathesis::the_service_is_as_its_document_says --nocapture

zoo: ## Plants known bugs, one at a time; a named test must find each
	@.ci/servers test && cargo test --locked --features failpoints,zoo --test it -- --exact zoo::each_bug_is_found --nocapture

nemesis: ## Injects random faults for SECONDS (30), chosen by SEED (1)
	@.ci/servers test && SEED=$(or $(SEED),1) SECONDS=$(or $(SECONDS),30) cargo test --locked --features failpoints --test it -- --exact nemesis::first --nocapture

# The version in production: the newest tag, or without tags the commit before.
VERSION ?= $(or $(shell git describe --tags --abbrev=0 2>/dev/null),HEAD~1)

drill: ## Runs the tests that take minutes, also beside VERSION, which this one replaces
	@.ci/servers test && rm -rf target/previous && mkdir -p target/previous && git archive $(VERSION) | tar -x -C target/previous
	cargo build --locked --manifest-path target/previous/Cargo.toml --target-dir target/previous/target --bin coupon
	PREVIOUS=$(CURDIR)/target/previous/target/debug/coupon cargo test --locked --features failpoints,drills --test it -- --test-threads 2 --nocapture drills

fuzz: ## Fuzzes each parser of bytes from outside for SECONDS (60)
	@.ci/fuzz $(or $(SECONDS),60)

bench: ## Measures the release build; BENCH=quick BASE=<release binary> compares two
ifeq ($(BENCH),quick)
	@[ -x "$(BASE)" ] || { echo "BASE must be the path of the release binary to compare with" >&2; exit 2; }
	.ci/servers bench && cargo bench --locked --bench quick
else
	.ci/servers bench && cargo bench --locked --bench everybody && cargo bench --locked --bench issues && cargo bench --locked --bench overload && cargo bench --locked --bench relay
endif

# A lint links nothing, so the path spares the fuzz crate the build of libFuzzer, which needs a C++ compiler.
check: ## Checks format, lints and documentation; warnings fail
	cargo fmt --all --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	CUSTOM_LIBFUZZER_PATH=/dev/null cargo clippy --manifest-path tests/fuzz/Cargo.toml --target-dir target --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features --locked
