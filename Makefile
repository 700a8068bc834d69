# What is done with this project, by name. `make help` lists it.
#
# `make run` and `make test` need a Rust toolchain and a C compiler, nothing else.

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= /usr/local
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
NAME := ai-free-swap
RELEASE := $(TARGET_DIR)/release/$(NAME)

# `make run ARGS="--port 9000"`
ARGS ?=
# The packages of the SDK tests; `make sdk-test OPENAI_SDK=openai==2.8.0` tries another version.
OPENAI_SDK ?= openai
ANTHROPIC_SDK ?= anthropic
SDK_VENV := $(TARGET_DIR)/sdk-venv
SDK_NODE := $(TARGET_DIR)/sdk-node
# Nothing that needs a network or a peer may hang.
LIMIT := $(if $(shell command -v timeout),timeout 300)
# Seconds for each fuzz target, and which ones.
FUZZ_SECONDS ?= 20
FUZZ_TOOLCHAIN ?= nightly
# Options of cargo-fuzz, such as `-s none`, which builds without the address sanitizer.
FUZZ_ARGS ?=
FUZZ_TARGETS ?= $(sort $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))))
# `make bench BENCH=path/of/the/harness` compares with nginx; ROUNDS and BENCH_ARGS go to the harness.
BENCH ?=
ROUNDS ?= 3
BENCH_ARGS ?=
# `make static STATIC_SH=path/of/static.sh` builds where `rustup target add` cannot download.
STATIC_TARGET ?= x86_64-unknown-linux-musl
STATIC_SH ?= $(wildcard ../shared/toolchain/static.sh)
STATIC := $(TARGET_DIR)/$(STATIC_TARGET)/release/$(NAME)
# `make dist` packs these. For MIPS, Rust itself brings no libc; Zig does. Why not the big-endian one: docs/footprint.md.
DIST_TARGETS ?= x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf \
	arm-unknown-linux-musleabihf i686-unknown-linux-musl riscv64gc-unknown-linux-musl \
	$(if $(STATIC_SH),mipsel-unknown-linux-musl)
DIST := $(TARGET_DIR)/dist
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)
COMMIT_TIME = $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct))
# ring has some C: other processors need a C compiler for them. Zig is one: `make dist CARGO_BUILD="cargo
# zigbuild"`.
CARGO_BUILD ?= $(CARGO) build
# What `make install` installs; the static binary, for example.
BIN ?= $(RELEASE)

.PHONY: help run build test docs-check deploy-check check sdk-test fuzz bench footprint static dist dist-targets install uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

run: ## build and run; no config is needed; ARGS="--port 9000" passes options
	$(CARGO) run --release --locked -- $(ARGS)

build: ## the release binary
	$(CARGO) build --release --locked

test: ## all tests that need nothing but Rust
	$(CARGO) test --locked

docs-check: ## the documentation against the program (part of test)
	$(CARGO) test --locked --test docs

deploy-check: ## what is in deploy/, and install and uninstall, with the tools that are there
	$(CARGO) build --locked
	sh tests/deploy.sh $(TARGET_DIR)/debug/$(NAME)

check: ## format, lints, documentation, licences and advisories
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		set -x; $(CARGO) deny --locked check; \
	else \
		echo "cargo-deny is not installed: licences and advisories not checked (cargo install --locked cargo-deny)"; \
	fi

sdk-test: $(SDK_VENV)/ready ## the official SDKs against the program (needs Python and PyPI; node and npm if there)
	$(CARGO) build --locked
	$(LIMIT) $(SDK_VENV)/bin/python tests/sdk/test_openai.py $(TARGET_DIR)/debug/$(NAME)
	$(LIMIT) $(SDK_VENV)/bin/python tests/sdk/test_anthropic.py $(TARGET_DIR)/debug/$(NAME)
	@if ! command -v npm >/dev/null || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then \
		echo "SKIPPED: the SDKs for JavaScript need node 20 or later and npm"; \
	else \
		set -ex; \
		mkdir -p $(SDK_NODE); \
		cp tests/sdk/node/package.json tests/sdk/node/test.mjs $(SDK_NODE); \
		$(LIMIT) npm install --prefix $(SDK_NODE) --no-audit --no-fund --no-update-notifier --loglevel=error \
			--prefer-offline --fetch-retries=2 --fetch-timeout=60000; \
		$(LIMIT) node $(SDK_NODE)/test.mjs $(TARGET_DIR)/debug/$(NAME); \
	fi

# Anew when this file names other packages.
$(SDK_VENV)/ready: $(firstword $(MAKEFILE_LIST))
	$(PYTHON) -m venv $(SDK_VENV)
	$(LIMIT) $(SDK_VENV)/bin/pip install --quiet --disable-pip-version-check --timeout 30 $(OPENAI_SDK) $(ANTHROPIC_SDK)
	touch $@

fuzz: ## each fuzz target for FUZZ_SECONDS (needs nightly Rust and cargo-fuzz)
	@rustup run $(FUZZ_TOOLCHAIN) cargo --version >/dev/null 2>&1 || \
		{ echo "fuzzing needs a nightly toolchain: rustup toolchain install $(FUZZ_TOOLCHAIN)"; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || \
		{ echo "fuzzing needs cargo-fuzz: cargo install --locked cargo-fuzz"; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzz: $$target for $(FUZZ_SECONDS) s"; \
		$(CARGO) +$(FUZZ_TOOLCHAIN) fuzz run $(FUZZ_ARGS) $$target -- -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 \
			|| exit 1; \
	done

bench: ## microbenchmarks; with BENCH=harness also side by side with nginx
	$(CARGO) bench --locked --bench '*'
ifneq ($(BENCH),)
	$(CARGO) build --release --locked
	CARGO_TARGET_DIR=$(abspath $(TARGET_DIR))/llmbench OUT=$(abspath $(TARGET_DIR))/bench-results.json \
		sh $(BENCH)/run.sh $(RELEASE) $(ROUNDS) $(BENCH_ARGS)
endif

# The folders of the crates' sources and of std's are cut out of the binary: they name the home of whoever built it, cost
# bytes, and would make everybody's binary another one. Nothing unwinds (docs/footprint.md), so the tables for it go. On ARMv7
# Thumb instructions take two thirds of the bytes.
STATIC_FLAGS = -C force-unwind-tables=no -C llvm-args=-inline-threshold=30 \
	--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src/= \
	$(if $(filter armv7-%,$(1)),-C target-feature=+thumb-mode) $(if $(filter riscv64gc-%,$(1)),-C target-feature=+crt-static)
# Addresses to relocate in their packed form, and functions that came out the same once: 95 kB less.
LLD_FLAGS := -zpack-relative-relocs --icf=all
# The smallest code, with two exceptions: the parts that are at work in every request, and calls of short functions,
# which cost the most time for the fewest bytes. docs/footprint.md has what each of these gives.
STATIC_ARGS := --locked --config profile.release.opt-level=\"z\" \
	$(foreach crate,dlmalloc httparse serde_json,--config profile.release.package.$(crate).opt-level=\"s\")
# A standard library of one's own, for size and without the names for backtraces, is 0.5 MB less. Cargo calls that
# unstable, so it wants to be told; SMALL_STD= does without.
SMALL_STD ?= yes
ifneq ($(SMALL_STD),)
STATIC_ARGS += -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size \
	$(foreach crate,core alloc std,--config profile.release.package.$(crate).opt-level=\"s\")
endif
ifneq ($(STATIC_SH),)
# On MIPS rustix takes times to have 64 bits, as they have in musl 1.2.3 and later, and the libc crate has to be told:
# with the 32 it assumes, no timer ever fires.
MIPS_TIME := RUST_LIBC_UNSTABLE_MUSL_V1_2_3=1
build-static = $(if $(filter mipsel-%,$(1)),$(MIPS_TIME)) SMALL_STD=$(SMALL_STD) LLD_FLAGS="$(LLD_FLAGS)" \
	STATIC_RUSTFLAGS="$(STATIC_FLAGS)" $(CURDIR)/.ci/zig-build $(STATIC_SH) $(1) $(STATIC_ARGS)
else
# The linker and musl are those that come with Rust.
build-static = rustup target add $(1) $(if $(SMALL_STD),&& rustup component add rust-src) && \
	$(if $(SMALL_STD),RUSTC_BOOTSTRAP=1) RUSTFLAGS="$(RUSTFLAGS) $(STATIC_FLAGS) \
	-C linker=rust-lld -C link-self-contained=yes \
	$(LLD_FLAGS:%=-C link-arg=%) --remap-path-prefix=$$(rustc --print sysroot)/lib/rustlib/src/rust/=" $(CARGO_BUILD) --release --target $(1) $(STATIC_ARGS)
endif

footprint: ## size, start and memory of the release binary, or of BIN
	test -x $(BIN) || $(MAKE) build
	$(PYTHON) benches/footprint.py $(BIN)

static: ## a static Linux binary (musl), and its size
	$(call build-static,$(STATIC_TARGET))
	@printf '%s: %s bytes\n' $(STATIC) "$$(wc -c <$(STATIC))"

dist: $(addprefix dist-,$(DIST_TARGETS)) ## archives with static binaries for DIST_TARGETS, and SHA256SUMS, in target/dist
	cd $(DIST) && sha256sum $(DIST_TARGETS:%=$(NAME)-$(VERSION)-%.tar.gz) >sums
	mv $(DIST)/sums $(DIST)/SHA256SUMS
	cat $(DIST)/SHA256SUMS

# For scripts.
dist-targets:
	@echo $(DIST_TARGETS)

# The same commit and compiler give the same archive: sorted, nobody's, with the time of the commit. It gets its name
# when it is whole.
dist-%: PACKED = $(NAME)-$(VERSION)-$*
dist-%:
	rm -rf $(DIST)/SHA256SUMS $(DIST)/$*
	$(call build-static,$*)
	mkdir -p $(DIST)/$*/$(PACKED)
	cp -R $(TARGET_DIR)/$*/release/$(NAME) README.md LICENSE config.yaml.example $(wildcard deploy) $(DIST)/$*/$(PACKED)
	tar -C $(DIST)/$* --sort=name --owner=0 --group=0 --numeric-owner --mode=a=rX,u+w --mtime=@$(COMMIT_TIME) \
		--format=gnu -cf $(DIST)/$*/tar $(PACKED)
	gzip -9n $(DIST)/$*/tar
	mv $(DIST)/$*/tar.gz $(DIST)/$(PACKED).tar.gz
	rm -r $(DIST)/$*

# Nothing is put into /etc: README.md and docs/hosting.md say what to write there, and uninstall leaves it alone.
DOCDIR := $(DESTDIR)$(PREFIX)/share/doc/$(NAME)
MAN := $(DESTDIR)$(PREFIX)/share/man/man1/$(NAME).1
UNIT := $(DESTDIR)$(PREFIX)/lib/systemd/system/$(NAME).service

install: ## program, manual page, systemd unit and documentation under DESTDIR and PREFIX (/usr/local)
	test -x $(BIN) || $(MAKE) build
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/$(NAME)
	install -D -m 644 docs/$(NAME).1 $(MAN)
	install -D -m 644 deploy/systemd/$(NAME).service $(UNIT)
	sed -i 's|/usr/local/bin/|$(PREFIX)/bin/|' $(UNIT)
	install -d -m 755 $(DOCDIR)/docs
	install -m 644 README.md SECURITY.md LICENSE config.yaml.example $(DOCDIR)
	install -m 644 docs/*.md $(DOCDIR)/docs

uninstall: ## what install has put there; the configuration stays
	rm -f $(DESTDIR)$(PREFIX)/bin/$(NAME) $(MAN) $(UNIT)
	rm -rf $(DOCDIR)

clean: ## everything that was built
	$(CARGO) clean
	$(CARGO) clean --manifest-path fuzz/Cargo.toml
