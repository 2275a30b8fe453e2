# Thin: each target calls one script or one command of vrtg. `make` alone shows what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo down images test test-kubernetes test-stack faults fuzz soak bench lint fmt proto crds kustomize guest

# pyenv's or a system's uv may be missing before set-up; scripts/setup.sh installs one.
export PATH := $(HOME)/.local/bin:$(CURDIR)/.venv/bin:$(PATH)
RUN := uv run --no-sync
# A file's tests stay together, for what they share; each worker has its libvirtd, simulators and stack to itself.
WORKERS ?= 2
# Runs of the simulation (tests/faults) in the gate, on as many cores: a few minutes.
SEEDS ?= 1000
GUEST := .cache/images/virtrigaud-guest.qcow2
GENERATED := libs/common/src/common/gen
# The tests start hundreds of Python processes: without kept bytecode, each would compile all of its modules.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: ## install what is missing: system packages, uv, the virtual environment, test tools, the guest image
	scripts/setup.sh test

demo: ## bring up the embedded stack and a real machine, and show what happens
	scripts/setup.sh demo
	$(RUN) vrtg demo --image $(GUEST) --manifests examples/quickstart

down: ## end the demo: its machine, the stack, and the libvirt that it started
	@if [ -x .venv/bin/vrtg ]; then $(RUN) vrtg down --filename examples/quickstart; else echo "nothing was set up here"; fi

images: ## build the image of each service with Docker (IMAGES="controller cli": only these); sizes and cold starts
	$(RUN) python deploy/images/build.py $(IMAGES) $(if $(BASE),--base $(BASE)) $(if $(BUILDER),--builder $(BUILDER))

test-stack: ## docker-compose.yml on a real Docker engine, with images that need no registry: docs/compose.md
	scripts/setup.sh test
	cd tests && $(RUN) python -m stack

test: ## everything: set-up, lint, and every test, those on a real hypervisor included
	scripts/setup.sh test
	$(MAKE) lint
	cd tests && $(RUN) python -m tools
	cd tests && $(RUN) python -m faults 0 $(SEEDS) --workers $(WORKERS)
	$(RUN) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	cd tests && $(RUN) python -m stack

test-kubernetes: ## the tests on a real Kubernetes API alone: chart, Kustomize base, quickstart, contract, API (in `make test`, too)
	scripts/setup.sh test
	cd tests && $(RUN) python -m tools cluster
	$(RUN) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/cluster

bench: ## measure everything (SECTIONS="idle growth": only these; LARGE=1: 50,000 machines, too), publish in docs/performance
	scripts/setup.sh bench
	cd tests && $(RUN) python -m bench $(SECTIONS) $(if $(LARGE),--large)

faults: ## simulate 10,000 seeds of crashes and faults (about 45 minutes on 2 cores), and shrink those that fail
	cd tests && $(RUN) python -m faults 0 10000 --workers $(WORKERS)

fuzz: ## fuzz every parser of foreign input, FUZZ_SECONDS (60) for each of FUZZ_TARGETS; what breaks a promise is kept
	uv sync --all-packages --frozen --group fuzz
	cd tests && $(RUN) python -m fuzz $(or $(FUZZ_SECONDS),60) $(FUZZ_TARGETS)

soak: ## work and kill on real processes of SOAK_PROVIDER (libvirt) for SOAK_MINUTES (60), and measure what they take
	cd tests && $(RUN) python -m faults.real $(or $(SOAK_PROVIDER),libvirt) --soak $(or $(SOAK_MINUTES),60)

lint: ## format, style, types, import layers, wire contract, generated files
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) buf lint
	$(RUN) buf breaking --against proto/released.binpb
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(RUN) buf generate -o "$$fresh" && \
		diff -rq -x __pycache__ "$$fresh/$(GENERATED)" $(GENERATED) || \
		{ echo "$(GENERATED) is not what proto/ generates: run make proto, and commit the result" >&2; exit 1; }
	$(RUN) python -m kinds.crds --out deploy/crds --check

fmt: ## format the code and fix what can be fixed
	$(RUN) ruff format
	$(RUN) ruff check --fix

proto: ## generate Python from the wire contract
	$(RUN) buf generate

crds: ## generate the CustomResourceDefinitions from the models
	$(RUN) python -m kinds.crds --out deploy/crds

kustomize: ## generate the Kustomize base from the chart
	cd tests && $(RUN) python -m cluster.kustomize

guest: ## build the small guest image
	images/guest/build.sh
