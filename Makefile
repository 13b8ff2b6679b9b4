# Every target that needs the environment makes it first; a finished set-up costs well under a second.
#   MODEL=...           serve another model: a folder or a hub's name
#   KEY=...             where `make key` puts the private key
#   ANANKE_DEVICE=cpu   or gpu, where the choice by nvidia-smi is not wanted
#   NAME=...            whose key `make api-key` makes
#   ARGS=...            options of `make deploy` (scripts/deploy.sh --help) and `make bench` (scripts/bench.py --help)
#   LINES=100           of the log that `make logs` shows
SHELL := /bin/bash
PYTHON_IN_VENV := .venv/bin/python
LOG := .ananke/run/triton.log
LINES ?= 100
# What runs here may have other ports than those that clients take by default.
ADDRESSES := eval "$$($(PYTHON_IN_VENV) scripts/serve.py addresses)"
ifdef MODEL
export ANANKE_MODEL := $(MODEL)
endif

.DEFAULT_GOAL := help
.PHONY: help install setup deploy run test serve examples stop status health config logs bench info key api-key audit docs lint image-test lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

install: setup ## the same as setup (the client alone, into an environment of your own: pip install .)

setup: ## make .venv, Triton's server and a small model, all inside the tree
	@scripts/setup.sh

run: setup ## set up, then serve and show outputs enforced and verified, and a refusal
	@$(PYTHON_IN_VENV) scripts/demo.py

test: setup ## set up, then run every test, those against a real server too
	@status=0; \
	$(PYTHON_IN_VENV) -m pytest -n 3 --dist loadfile tests/unit || status=$$?; \
	$(PYTHON_IN_VENV) -m pytest --ignore tests/unit || status=$$?; \
	exit $$status

serve: setup ## set up, then serve in the background
	@$(PYTHON_IN_VENV) scripts/serve.py start

deploy: ## build the image and run it on this machine's GPUs, after checks (ARGS="--mode prod --yes")
	@scripts/deploy.sh $(ARGS)

examples: setup ## run every example against the server that runs
	@$(ADDRESSES); \
	for example in examples/*.py; do echo "── $$example"; $(PYTHON_IN_VENV) $$example || exit 1; done; \
	echo "── examples/http/generate.sh"; examples/http/generate.sh || exit 1; \
	if command -v npm >/dev/null; then echo "── examples/http/generate.mts"; scripts/run_typescript.sh examples/http/generate.mts; fi

stop: ## end what `make serve` started
	@if [[ -x $(PYTHON_IN_VENV) ]]; then $(PYTHON_IN_VENV) scripts/serve.py stop; else echo "not serving"; fi

status: ## say what is served, and where
	@$(PYTHON_IN_VENV) scripts/serve.py status

health: ## ask the server that runs whether it is well
	@$(ADDRESSES); .venv/bin/ananke health --http

config: setup ## print the effective configuration and where each value came from
	@$(PYTHON_IN_VENV) scripts/config.py

logs: ## show the end of the server's log; on a terminal, follow it
	@if [[ ! -f $(LOG) ]]; then echo "no log: nothing was served yet"; else tail -n $(LINES) $$([[ ! -t 1 ]] || echo -F) $(LOG); fi

bench: setup ## time a cold start and a small load, as a client sees them (ARGS="--requests 64")
	@$(PYTHON_IN_VENV) scripts/bench.py $(ARGS)

info: ## say what is installed, on which machine, and what it serves
	@if [[ -x $(PYTHON_IN_VENV) ]]; then $(PYTHON_IN_VENV) scripts/info.py; else echo "not set up: make setup"; fi

key: setup ## make a key pair that signs provenance (KEY=FILE puts it elsewhere)
	@$(PYTHON_IN_VENV) scripts/make_key.py $(KEY)

api-key: setup ## make an API key and print it once (NAME=who; FILE=... puts its hash elsewhere)
	@$(PYTHON_IN_VENV) scripts/make_api_key.py $(NAME) $(FILE)

audit: setup ## look for known faults in the locked dependencies
	@$(PYTHON_IN_VENV) scripts/audit.py

docs: setup ## build the documentation's site into .ananke/site
	@scripts/build_docs.sh

lint: setup ## ruff, mypy, hadolint and shellcheck
	@$(PYTHON_IN_VENV) -m ruff check .
	@$(PYTHON_IN_VENV) -m mypy
	@.venv/bin/hadolint Dockerfile.triton
	@.venv/bin/shellcheck scripts/*.sh examples/http/*.sh .ci/run

image-test: setup ## build the container image without a registry, run it and generate in it (root; Debian's buildah, debootstrap, bubblewrap)
	@scripts/image_test.sh

lock: ## resolve pyproject.toml into requirements/*.txt (needs uv)
	@scripts/lock.sh

clean: ## remove everything that setup made
	@$(MAKE) --no-print-directory stop
	rm -rf .venv .ananke .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
