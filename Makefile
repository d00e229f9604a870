.DEFAULT_GOAL := help
.PHONY: help demo test bench check drill fuzz nemesis zoo

help: ## Lists the targets
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST)

demo: ## Runs everything on private servers; ARGS="..." are passed on
	@.ci/servers && cargo run --release --quiet --bin coupon -- demo $(ARGS)

test: ## Runs all tests, against real servers
	.ci/servers test && RUST_TEST_THREADS=4 cargo test --workspace --locked --features failpoints

zoo: ## Plants known bugs, one at a time: a test has to find each
	@.ci/servers test && cargo test --locked --features failpoints,zoo --test it -- --exact zoo::each_bug_is_found --nocapture

nemesis: ## Breaks everything at random for SECONDS, as SEED tells
	@.ci/servers test && SEED=$(or $(SEED),1) SECONDS=$(or $(SECONDS),30) cargo test --locked --features failpoints --test it -- --exact nemesis::first --nocapture

# What serves: the newest tag, or the commit before.
VERSION ?= $(or $(shell git describe --tags --abbrev=0 2>/dev/null),HEAD~1)

drill: ## Breaks what takes minutes; VERSION names the version that this one replaces
	@.ci/servers test && rm -rf target/previous && mkdir -p target/previous && git archive $(VERSION) | tar -x -C target/previous
	cargo build --locked --manifest-path target/previous/Cargo.toml --target-dir target/previous/target --bin coupon
	PREVIOUS=$(CURDIR)/target/previous/target/debug/coupon cargo test --locked --features failpoints,drills --test it -- --test-threads 2 --nocapture drills

fuzz: ## Attacks each parser of what comes from outside for SECONDS
	@.ci/fuzz $(or $(SECONDS),60)

bench: ## Measures the release build; BENCH=quick BASE=<another release binary> compares
ifeq ($(BENCH),quick)
	@[ -x "$(BASE)" ] || { echo "BASE must be the path of the release binary to compare with" >&2; exit 2; }
	.ci/servers bench && cargo bench --locked --bench quick
else
	.ci/servers bench && cargo bench --locked --bench issues && cargo bench --locked --bench overload && cargo bench --locked --bench relay
endif

# The fuzzer itself, in C++, is not built to lint its targets: nothing is linked.
check: ## Format, lints and documentation, without warnings
	cargo fmt --all --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	CUSTOM_LIBFUZZER_PATH=/dev/null cargo clippy --manifest-path tests/fuzz/Cargo.toml --target-dir target --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features --locked
