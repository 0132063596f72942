# The single entry to this repository: continuous integration calls the same targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A fresh root shell may not have rustup's folder on PATH.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# How long `make fuzz` gives to each target.
FUZZ_SECONDS ?= 10
# How often `make crash` kills the store.
CRASH_ROUNDS ?= 1000

# The tests that are ignored elsewhere, because they need Keylime from PyPI.
INTEROP := cargo nextest run --locked --workspace --run-ignored only --no-fail-fast

.PHONY: help setup demo offline test interop counts crash lint bench bench-keylime fuzz miri clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24

setup: ## install all that a Debian 12 with Rust lacks (as root or through sudo)
	@scripts/setup build demo test lint

demo: ## a server, three machines with TPMs, an operator, two attacks and a crash
	@scripts/setup build demo
	@demo/run

offline: ## judge recorded evidence and tampered copies of it with `rat verify`
	@scripts/setup build
	@demo/offline

# Nextest leaves out documentation examples. It comes last, so that its summary ends the output.
test: ## all tests, documentation examples, counts of instructions and `make interop` included
	@scripts/setup build test
	benches/instructions
	cargo test --locked --workspace --doc --quiet
	@if scripts/setup keylime && scripts/keylime >/dev/null; then \
		$(INTEROP); \
	else \
		echo 'make test: LEFT OUT, without Keylime from PyPI: the tests of make interop'; \
	fi
	cargo nextest run --locked --workspace --no-fail-fast

interop: ## Keylime 7.14.3's own tenant and verification, from PyPI, beside this program
	@scripts/setup build test keylime
	@scripts/keylime >/dev/null
	$(INTEROP)

counts: ## instructions of each stage of verification, beside those that are kept
	@scripts/setup build test
	benches/instructions

crash: export CRASH_ROUNDS := $(CRASH_ROUNDS)
crash: ## kill -9 a process that commits verdicts, and look for lost ones (CRASH_ROUNDS=1000)
	@scripts/setup build test
	cargo test --locked --workspace --test crash -- --nocapture

lint: ## format, clippy, dependencies' licences and sources, documentation links
	@scripts/setup build lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo deny --workspace --all-features check bans licenses sources
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

bench: ## criterion benches, a server's cost, and one table of both (target/bench/summary.json)
	@scripts/setup build
	cargo bench --locked --package rat-benches
	cargo build --release --locked --workspace --bins --examples
	@benches/table

bench-keylime: ## Keylime 7.14.3 and this program on the same evidence and agents (target/bench/keylime*.json)
	@scripts/setup build keylime
	cargo build --release --locked --package ratd --package rat-load --bins
	cargo build --release --locked --package rat-benches --example evidence --example keylime_agents
	@benches/keylime-evidence
	@benches/keylime-agents --memory 10000

# The fuzzer's compiler flags are unstable, so a stable compiler has to be told to take them.
fuzz: export RUSTC_BOOTSTRAP := 1
fuzz: ## a short run of each fuzz target (FUZZ_SECONDS=10)
	@scripts/setup build fuzz
	cargo fuzz build
	@for target in $$(cargo fuzz list); do \
		new=fuzz/target/corpus/$$target; \
		mkdir -p "$$new"; \
		cargo fuzz run "$$target" "$$new" "fuzz/corpus/$$target" -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=1024; \
	done

miri: ## the steps of RSA in the model of the vector unit under Miri, which needs a nightly compiler
	@scripts/setup build
	rustup toolchain install nightly --profile minimal --component miri,rust-src
	cargo +nightly miri test --locked --package rat-engine --lib -- miri_

clean: ## remove what was built
	cargo clean
	rm -rf fuzz/target
