# Two commands do everything on a machine with Rust and CPython: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BIND ?= 127.0.0.1:8000
# rustup's own place, for shells that have not been restarted since it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin
# Which Python the extension is checked against.
export PYO3_PYTHON := $(abspath $(BIN))/python

RUST := Cargo.toml Cargo.lock pyproject.toml $(shell find engine/Cargo.toml engine/src binding -name '*.rs' -o -name '*.toml')

.PHONY: run test test-all threaded-test free-threaded frameworks parity system rust-test python-test lint compat build clean help

help:
	@echo "make run     build, and serve examples/hello.py on $(BIND)"
	@echo "make test    everything: lints, Rust tests, Python tests"
	@echo "make test-all  the Python tests on every CPython there is"
	@echo "make free-threaded  the Python tests on a CPython without GIL, which is built where there is none"
	@echo "make threaded-test  the Python tests again, with four threads in every server"
	@echo "make frameworks  Flask, Django, Falcon, Bottle and others, and a browser where there is one"
	@echo "make parity  bjoern 3.2.2 and this server in the same tests"
	@echo "make system  nginx and HAProxy in front, and load through them, where they are installed"
	@echo "make compat  the test scripts of bjoern 3.2.2 against this server"
	@echo "make fuzz    the fuzz targets, FUZZ_SECONDS=60 each"
	@echo "make model   the interleavings of the server's threads, as many as two minutes allow"
	@echo "make sanitize  ThreadSanitizer over the engine's threads, where the toolchain has what it needs"
	@echo "make bench   this server beside others: CPU time per request, with one thread and with sixteen"
	@echo "make instructions  the instructions of a request, compared with the last counts; UPDATE=1 records them"
	@echo "make build   the release extension in $(VENV)"
	@echo "make clean   remove what was built"

run: build
	@echo "Serving examples/hello.py; Ctrl-C ends it."
	@exec $(BIN)/bjoern --bind $(BIND) examples.hello:app

test: lint rust-test python-test

rust-test:
	cargo test --locked --workspace

python-test: build $(VENV)/.tests
	$(BIN)/python -m pytest -q $(PYTEST)

# Servers whose tests do not say how many threads they have get four: what is true of one must be true of several.
threaded-test: build $(VENV)/.tests
	BJOERN_THREADS=4 $(BIN)/python -m pytest -q

# rustfmt and clippy come with rustup, not with every distribution's Rust.
lint: build $(VENV)/.tests
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else echo "SKIPPED: rustfmt is not installed"; fi
	@if cargo clippy --version >/dev/null 2>&1; then cargo clippy --locked --workspace --all-targets -- -D warnings; \
	else echo "SKIPPED: clippy is not installed"; fi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every CPython of a supported version that can be found, each in an environment of its own.
test-all:
	@for minor in 10 11 12 13 14 15; do \
	    for python in python3.$$minor $(HOME)/.pyenv/versions/3.$$minor.*/bin/python3.$$minor; do \
	        $$python -c 'import ssl, venv' 2>/dev/null || continue; \
	        echo "== $$($$python --version)"; \
	        $(MAKE) --no-print-directory python-test PYTHON=$$python VENV=.venvs/3.$$minor || exit 1; \
	        break; \
	    done; \
	done

# A CPython without GIL (PEP 703), built once a user. That the tests are not run beside each other in threads of one
# process (pytest-run-parallel) has a reason: they look at servers in processes of their own, so it would be pytest and
# the clients that are stressed. What several threads do to one server at once is in tests/test_threads.py.
free-threaded:
	@mkdir -p .venvs; said=.venvs/free-threaded.log; \
	echo "Looking for a free-threaded CPython; to build one takes minutes"; \
	python=$$($(PYTHON) tests/free_threaded.py 2>$$said); code=$$?; \
	if [ $$code -eq 77 ]; then echo "SKIPPED: free-threaded tests, $$(tail -n 1 $$said)"; exit 0; fi; \
	cat $$said >&2; [ $$code -eq 0 ] || exit $$code; \
	venv=.venvs/$${python##*/python}; \
	[ -x $$venv/bin/python ] || rm -rf $$venv; \
	echo "== $$($$python --version), free-threaded"; \
	$(MAKE) --no-print-directory python-test PYTHON=$$python VENV=$$venv

frameworks: build $(VENV)/.tests
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/frameworks/requirements.txt
	$(BIN)/python -m pytest -q tests/frameworks

# The one server beside the other: building bjoern 3.2.2 needs libev's headers (Debian: libev-dev).
parity: build $(VENV)/.tests
	@$(BIN)/python tests/parity/install.py >/dev/null || echo "SKIPPED: what needs bjoern 3.2.2, for the reason above"
	$(BIN)/python -m pytest -q tests/parity

# It installs nothing: what is missing is skipped, and pytest says why.
system: build $(VENV)/.tests
	$(BIN)/python -m pytest -q -rs tests/system

compat: build
	$(BIN)/python tests/compat/run.py --require

build: $(VENV)/.built

$(VENV)/.made:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust (rustup, or the distribution's package)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python venv is missing: on Debian, apt-get install python3-venv python3-dev"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'maturin>=1.16,<2'
	@touch $@

$(VENV)/.built: $(VENV)/.made $(RUST)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --locked --quiet
	@touch $@

$(VENV)/.tests: $(VENV)/.made tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

clean:
	rm -rf target $(VENV) .venvs .venv-parity dist python/bjoern/*.so

# Without a sanitizer it needs no nightly toolchain: the engine has no unsafe code.
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz:
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet cargo-fuzz
	$(PYTHON) engine/fuzz/seed.py
	cd engine && for target in head chunked connection preface forwarded; do \
	    cargo fuzz run -s none $$target -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; done

# Locks and atomics are shuttle's here, which makes a build of its own.
.PHONY: model
model: export CARGO_TARGET_DIR := target/shuttle
model:
	cargo test --locked --release -p bjoern-engine --features shuttle --lib crew::model
	cargo test --locked --release -p bjoern-engine --features shuttle --test threads

# The standard library is built, too: what happens in one that is not looked at would pass for a race. That needs its
# source (rustup component add rust-src); RUSTC_BOOTSTRAP makes any toolchain take options that are not stable.
.PHONY: sanitize
sanitize: export RUSTC_BOOTSTRAP := 1
sanitize:
	@for toolchain in "" +nightly; do \
	    sysroot=$$(rustc $$toolchain --print sysroot 2>/dev/null) || continue; \
	    [ -e $$sysroot/lib/rustlib/src/rust/library/Cargo.lock ] || continue; \
	    RUSTFLAGS=-Zsanitizer=thread CARGO_TARGET_DIR=target/sanitize cargo $$toolchain test -p bjoern-engine \
	        --test real_threads -Zbuild-std --target $$(rustc $$toolchain -vV | sed -n 's/^host: //p'); \
	    exit; \
	done; \
	echo "SKIPPED: ThreadSanitizer, for want of the standard library's source (rustup component add rust-src)"

# Needs wrk and util-linux. About 17 minutes; QUICK=1 prints rough numbers after 4. FREE_THREADED=PYTHON: that
# interpreter, for which python/ has to hold the extension too, serves what needs one.
.PHONY: bench
bench: build .venv-bench/unavailable.json
	$(BIN)/python bench/run.py $(if $(QUICK),--quick) $(if $(FREE_THREADED),--free-threaded $(FREE_THREADED))
	$(if $(QUICK),,$(BIN)/python bench/report.py --write)

.venv-bench/unavailable.json: bench/requirements.txt bench/peers.py
	$(BIN)/python bench/peers.py

# Needs valgrind. About a minute. Counts by interpreter: say which with PYTHON and VENV, as for the others.
.PHONY: instructions
instructions: build
	$(BIN)/python bench/instructions.py $(if $(UPDATE),--update)
