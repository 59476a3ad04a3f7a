# The developer's whole manual. `make help` prints it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
# nextest where it is installed, plain cargo test where not.
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)

.PHONY: help deps clients build demo dev test lint bench siege torture mutants install uninstall check-units

help: ## print this
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what a fresh Debian 12 machine lacks (SoftHSM, swtpm, TPM libraries, a fast linker)
	@.ci/deps

clients: deps ## install the pinned programs that try the API's description (node and Python packages, under target/)
	@.ci/clients

build: deps ## build everything
	$(CARGO) build --workspace --all-targets

demo: deps ## simulate the whole appliance, sign, verify, audit, and catch a forger
	$(CARGO) build --workspace --bins
	target/debug/chancery dev --listen 127.0.0.1:0 --then demo/demo.sh

dev: deps ## start a simulated appliance and leave it running
	$(CARGO) build --workspace --bins
	target/debug/chancery dev

test: clients ## pass all tests
	$(CARGO) build --workspace --bins
ifdef NEXTEST
	$(CARGO) nextest run --workspace --no-fail-fast
else
	$(CARGO) test --workspace --lib --bins --tests -- --test-threads=1
endif
	$(CARGO) test --workspace --doc

lint: deps ## formatting, clippy with warnings as errors, units, known advisories (ADVISORY_DB=fetch|skip|<directory>)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	systemd/check.sh
	@.ci/advisories

bench: deps ## measure the gateway against a bare token, routing, workflows and the ledger (ENTRIES=10000000 for the long one)
	$(CARGO) build --release --workspace --bins
	target/release/bench
	target/release/bench --routing
	$(CARGO) run --release -p sagas --features double --example saga_figures
	$(CARGO) run --release -p audit --example figures -- $(or $(ENTRIES),1000000)
	target/release/bench --growth 1000 $(or $(ENTRIES),1000000)

siege: deps ## attack a release build with everything for a minute while one client signs, which must lose nothing (SECONDS=60)
	$(CARGO) build --release --workspace --bins
	target/release/bench --siege $(or $(SECONDS),60)

torture: deps ## all crash points and fault cycles, not only the sample
	$(CARGO) build --workspace --bins
	CHANCERY_TORTURE=all $(CARGO) nextest run --workspace --no-fail-fast -E 'binary(~torture) | binary(~fault) | binary(~stress) | binary(kills)'

mutants: deps ## change the code where it would hurt most and see whether a test notices (PART=append SHARD=0/4; goes on where it was stopped)
	@.ci/mutants

install: ## install what building takes, then binaries, units, manual pages and completions (DESTDIR and PREFIX are honoured)
	@.ci/deps build
	$(CARGO) build --release -p gateway --no-default-features -p hsm -p audit --features hsm/worker
	BUILD=target/release systemd/install.sh

uninstall: ## remove binaries and units; data stays unless PURGE=1
	systemd/uninstall.sh $(if $(PURGE),--purge)
