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

CRITEST := $(TARGET)/release/critest
SUITE   := $(TARGET)/release/suite
# What cargo tells of the test executables.
ARTIFACTS := $(TARGET)/tests.json
# What `make conformance` was asked to run; nothing means all there is.
SELECTED := $(strip $(foreach v,ON RUNTIME FOCUS WEBSOCKET CHURN REPEAT,$($(v))))

.PHONY: build daemon monitor tools run test check unit e2e fuzz test-repeat critest conformance conformance-bench guest guest-smoke peer-tools bench fmt clean help
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

guest-tools: ## the same, and User-Mode Linux
	@e2e/tools/setup.sh $(CACHE) guest

run: tools build ## a pod from a registry image, shown through crictl; ONCE=1 ends by itself
	@$(TARGET)/release/run $(if $(ONCE),--once)

# Each of them runs, whatever became of the others.
STEPS := check unit e2e critest-runc critest-crun guest-smoke

test: ## everything CI checks; every step runs, and the end says what failed
	+@MAKE="$(MAKE)" e2e/tools/steps.sh $(STEPS)

check: need-cargo ## format, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings
	$(CARGO) clippy $(ALL) --test node -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc $(ALL) --no-deps

# Properties are tried with the same cases every time; `make fuzz` looks for others.
unit: tools daemon test-executables ## unit and component tests, layout; TEST=words runs the tests that contain them
	@PROPTEST_RNG_SEED=1 $(SUITE) unit $(ARTIFACTS) $(TEST)

.PHONY: test-executables
test-executables: need-cargo
	@mkdir -p $(TARGET)
	@$(CARGO) test $(ALL) --no-run --message-format=json-render-diagnostics >$(ARTIFACTS)

e2e: tools build ## pods on this machine with real runc and crun; TEST=words runs the tests that contain them
	$(CARGO) test $(ALL) --test node -- $(TEST)

SEED ?= $(shell date +%s)

test-repeat: tools build test-executables node-tests ## unit and e2e again and again in another order: N=20 LOAD=1 SEED=n TEST=words
	@$(SUITE) repeat $(ARTIFACTS) $(TARGET)/node-tests $(TARGET)/repeat $(or $(N),20) $(SEED) \
	    $(if $(LOAD),--load) $(TEST)

fuzz: daemon test-executables ## every property with many other cases: CASES=20000 SEED=n; what fails is kept in proptest-regressions
	@echo "seed $(SEED)"
	@PROPTEST_CASES=$(or $(CASES),20000) PROPTEST_RNG_SEED=$(SEED) $(SUITE) unit $(ARTIFACTS) $(TEST)

critest: critest-runc critest-crun ## the CRI validation suite on this machine, with a current runc and with crun

# The guest has no network: what it pulls is built before.
.PHONY: suite-images
suite-images: tools build
	@$(CRITEST) --images

critest-%: tools build
	@$(CRITEST) --runtime $*

ifneq ($(SELECTED),)
conformance: $(if $(filter guest,$(ON)),guest-)tools build suite-images ## the suite everywhere, or chosen by ON=native|guest RUNTIME=runc|crun|debian-runc FOCUS=words WEBSOCKET=1 CHURN=n REPEAT=n
	@$(if $(filter guest,$(ON)),e2e/guest/run.sh) $(CRITEST) \
	    --on $(or $(ON),native) --runtime $(or $(RUNTIME),runc) $(if $(WEBSOCKET),--websocket) \
	    $(if $(FOCUS),--focus "$(FOCUS)") --churn $(or $(CHURN),0) --repeat $(or $(REPEAT),1)
else
# Every one, also after one that failed.
conformance: guest-tools build suite-images
	@failed=0; \
	for kind in "--runtime runc" "--runtime crun" "--runtime runc --websocket"; do \
	    $(CRITEST) $$kind || failed=1; \
	done; \
	e2e/guest/run.sh $(CRITEST) --on guest || failed=1; \
	exit $$failed
endif

peer-tools: tools
	@e2e/tools/setup.sh $(CACHE) peer

conformance-bench: peer-tools build ## the suite's own benchmarks, medians of crisol and of Debian's containerd
	@$(CRITEST) --benchmark --peer containerd --runtime $(or $(RUNTIME),debian-runc)

guest: guest-tools build node-tests ## a command in a machine of its own with Linux 6.1, AppArmor and control groups v2: RUN="..."; without RUN the node tests, TEST=words
	@e2e/guest/run.sh $(if $(RUN),sh -c '$(RUN)','$(TARGET)/node-tests' $(TEST))

# What this machine's kernel may not be able to show, in a few minutes.
SMOKE := AppArmor|UserNamespaces|resources|stats|metrics

guest-smoke: guest-tools build node-tests suite-images ## what needs the guest: AppArmor, limits, updates, statistics, user namespaces
	@GUEST_LIMIT=900 e2e/guest/run.sh $(CRITEST) --on guest --focus '$(SMOKE)'
	@GUEST_LIMIT=900 e2e/guest/run.sh $(TARGET)/node-tests limits:: resources::

# The node tests' program has a name only cargo knows.
.PHONY: node-tests
node-tests: need-cargo
	@$(CARGO) test $(ALL) --test node --no-run --message-format=json 2>/dev/null | \
	    sed -n 's|.*"executable":"\([^"]*/node-[^"]*\)".*|\1|p' | \
	    xargs -I {} ln -sfn {} $(TARGET)/node-tests

bench: tools build ## the promises of README.md, measured beside the bare runtimes in one run
	@$(TARGET)/release/bench $(BENCH)

fmt: ## format the code
	$(CARGO) fmt --all

clean: ## remove what was built; the tools stay in .cache
	rm -rf $(TARGET)

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
