# SPDX-License-Identifier: Apache-2.0
#
# `make demo` and `make test` are complete on a fresh Debian 12: they install what they need.
# Every target that runs something first makes .venv (tools/bootstrap.py); when all is there
# that takes a moment.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Targets share .venv, ports and databases: one after the other, whatever -j says.
.NOTPARALLEL:

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# One more than there are processors: some tests wait. The scenarios of the integration tests run side
# by side as they are.
PARALLEL := -n $(shell expr $$(nproc) + 1) --dist worksteal
# More arguments for pytest, for example: make unit ARGS="-k terms -x"
ARGS ?=

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: python
python:
	@command -v python3 >/dev/null || { \
	  test "$$(id -u)" = 0 || { echo "python3 is missing; install it as root: apt-get install python3" >&2; exit 1; }; \
	  apt-get update -q && apt-get install -q -y --no-install-recommends python3; }

.PHONY: venv
venv: python ## Make .venv, with all that demo, bench and docs need
	@echo "==> environment"
	@python3 tools/bootstrap.py

.PHONY: venv-test
venv-test: python
	@echo "==> environment, with what the tests need"
	@python3 tools/bootstrap.py --profile test --profile horizon

.PHONY: demo
demo: venv ## Live a VM's life on a real cloud, narrated (KEEP=1 leaves it up; HYPERVISOR=libvirt; WITH=horizon)
	@echo "==> demo"
	@$(BIN)/python -m tools.demo $(if $(KEEP),--keep) $(if $(HYPERVISOR),--hypervisor $(HYPERVISOR)) \
	  $(if $(WITH),--with $(WITH))

.PHONY: test
test: venv-test lint ## Everything but the long scenarios: style, unit, functional, integration
	@echo "==> tests: unit, functional (on all cores)"
	@# A busy machine can starve a test of its answers: what failed beside others has to pass alone.
	@$(PYTEST) $(PARALLEL) -m "not long" tests/unit tests/functional $(ARGS) || { \
	  echo "==> tests: those that failed (named above), one by one"; \
	  $(PYTEST) -m "not long" --last-failed --last-failed-no-failures none \
	    tests/unit tests/functional $(ARGS); }
	@echo "==> tests: integration"
	@# So can fifty scenarios beside each other: what failed has to pass without the others.
	@$(PYTEST) -m "not long" tests/integration $(ARGS) || { \
	  echo "==> tests: integration, those that failed (named above) without the others"; \
	  $(PYTEST) -m "not long" --last-failed --last-failed-no-failures none \
	    tests/integration $(ARGS); }

.PHONY: test-full
test-full: venv-test lint ## The same with the long scenarios
	@echo "==> tests: unit, functional (on all cores), the long ones too"
	@$(PYTEST) $(PARALLEL) tests/unit tests/functional $(ARGS)
	@echo "==> tests: integration, the long ones too"
	@$(PYTEST) tests/integration $(ARGS)

.PHONY: fast
fast: venv lint ## What needs no server: style and unit tests, under 90 s
	@echo "==> tests: unit"
	@$(PYTEST) tests/unit $(ARGS)

.PHONY: style
style: venv lint ## Check the code's form (ruff) and types (mypy)

.PHONY: lint
lint:
	@echo "==> style: ruff and mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: unit
unit: venv ## Unit tests: no servers
	@echo "==> tests: unit"
	@$(PYTEST) tests/unit $(ARGS)

.PHONY: functional
functional: venv-test ## Tests on real databases and a real mail server, in process
	@echo "==> tests: functional"
	@$(PYTEST) tests/functional $(ARGS)

.PHONY: integration
integration: venv-test ## Tests on the sandbox: real Keystone, Nova, Glance and Blazar
	@echo "==> tests: integration"
	@$(PYTEST) -m "not long" tests/integration $(ARGS)

.PHONY: bench
bench: venv-test ## Measure: adoption and reconciliation of large clouds, mails, Horizon
	@echo "==> benchmarks"
	@$(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: bench-latency
bench-latency: venv ## Measure on an idle sandbox how soon a VM has its lease: median and longest of 20
	@echo "==> latency"
	@$(BIN)/python -m tests.benchmarks.latency $(ARGS)

.PHONY: chaos
chaos: venv-test ## 200 VMs expire while all is killed or stopped in turn (make chaos SEED=7 repeats)
	@echo "==> chaos"
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED))
	@echo "==> real bytes: images of real VMs, compared with their disks"
	@$(PYTEST) tests/integration/test_real_bytes.py $(ARGS)

.PHONY: messages
messages: venv ## Add new messages of the mails to the catalogues; says what has no translation yet
	@$(BIN)/python -m tools.messages $(ARGS)

.PHONY: pictures
pictures: venv-test ## Take the pictures of mails in the documentation anew, where they have changed
	@$(BIN)/python -m tests.mail_pictures

.PHONY: docs
docs: venv ## Build the documentation into doc/build/html; a warning is an error
	@echo "==> documentation"
	@$(BIN)/sphinx-build -W --keep-going -b html doc/source doc/build/html

.PHONY: clean
clean: ## Remove what was built; .venv stays (remove it by hand)
	@echo "==> clean"
	rm -rf build dist doc/build .mypy_cache .pytest_cache .ruff_cache .hypothesis .tox *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
