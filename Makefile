# crisol: everything a developer or CI runs. `make help` lists it.
#
# One cargo profile for programs, tests and benchmarks, so that every package is compiled once; the
# monitor is the exception: it exists once per container and is built small and static.

TARGET  := $(abspath $(or $(CARGO_TARGET_DIR),target))
CACHE   := $(CURDIR)/.cache
TRIPLE  := $(shell uname -m)-unknown-linux-gnu
CARGO   := cargo
# The whole workspace every time: another selection of packages is another set of features, and
# dependencies would be compiled again for it.
ALL     := --release --locked --workspace

export CARGO_TARGET_DIR := $(TARGET)
export CRISOL_BIN     := $(TARGET)/release/crisol
export CRISOL_MONITOR := $(TARGET)/monitor/$(TRIPLE)/monitor/conmon
export CRISOL_CACHE   := $(CACHE)

.PHONY: build daemon monitor tools run test check unit e2e bench fmt clean help
.DEFAULT_GOAL := build

build: daemon monitor ## the daemon and its monitor

daemon: need-cargo
	$(CARGO) build $(ALL)

# crt-static and a fixed address: no dynamic loader, no relocations, no page dirtied by either.
monitor: need-cargo
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
	$(CARGO) build --locked --profile monitor -p conmon --target $(TRIPLE) \
	    --target-dir $(TARGET)/monitor

.PHONY: need-cargo
need-cargo:
	@command -v $(CARGO) >/dev/null || { \
	    echo "crisol: needs Rust 1.95 or newer (cargo): get it from https://rustup.rs" >&2; exit 1; }

tools: ## what the tests need besides Rust: Debian packages and crictl
	@e2e/tools/setup.sh $(CACHE)

run: tools build ## a pod from a registry image, shown through crictl; ONCE=1 ends by itself
	@$(CARGO) run -q $(ALL) --bin run -- $(if $(ONCE),--once)

test: tools check unit e2e ## everything CI checks

check: need-cargo ## format, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(ALL) --all-targets --test node -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc $(ALL) --no-deps

unit: need-cargo ## unit and component tests, layout
	$(CARGO) test $(ALL) --no-fail-fast

e2e: tools build ## pods on this machine with real runc and crun; TEST=words runs the tests that contain them
	$(CARGO) test $(ALL) --test node -- $(TEST)

bench: tools build ## the promises of README.md, measured beside the bare runtimes in one run
	@$(CARGO) run -q $(ALL) --bin bench -- $(BENCH)

fmt: ## format the code
	$(CARGO) fmt --all

clean: ## remove what was built; the tools stay in .cache
	rm -rf $(TARGET)

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
