# make demo   asks the embedded model about the bundled picture
# make test   runs every check
# make test-torchvision tests the LMMs, and those whose image processors need torchvision, in an
#             environment of its own, .venv-torchvision
# make test-cluster tests batches on a Ray cluster and from an S3 server, both on this machine, in an
#             environment of its own, .venv-cluster
# make test-clients drives the server with the real packages of OpenAI's clients, each in an environment
#             of its own in the folder for temporary files; needs Node, and 9 GB
# make report measures the paper's claims on the embedded model, where that is not yet done, and writes
#             docs/report.md
#
# All make .venv first, once; PYTHON and TORCH can be set, as in: make demo PYTHON=python3.12

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
TORCHVISION ?= torch==2.14.1 torchvision==0.29.1

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-torchvision test-cluster test-clients report

demo: .venv/installed
	$(BIN)/flmm chat src/flmm/assets/pictures/demo.png "What is in the picture?"

# One thread a process: models this small only wait for further ones. One process more than the cores of
# CI, since many tests wait for processes that they start.
test: .venv/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile

test-torchvision: .venv-torchvision/installed
	FLMM_ALL_TYPES=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-torchvision/bin/python -m pytest \
		--numprocesses 2 --dist loadfile tests/contract tests/unit/lmm

test-cluster: .venv-cluster/installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-cluster/bin/python -m pytest --numprocesses 0 \
		tests/integration/batch/test_ray.py tests/integration/batch/test_batch_sources.py

test-clients: .venv/installed-for-tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/clients/run_clients.py

report: .venv/installed-for-report
	HF_HUB_OFFLINE=1 $(BIN)/flmm report

# torch goes first and pinned: a resolver left to itself may bring gigabytes for a GPU.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(PIP) install "$(TORCH)"
	touch $@

.venv/installed: .venv/torch pyproject.toml
	$(PIP) install --editable .
	touch $@

.venv/installed-for-report: .venv/installed
	$(PIP) install --editable ".[report]"
	touch $@

.venv/installed-for-tests: .venv/installed
	$(PIP) install --editable ".[dev]"
	touch $@

.venv-cluster/installed: pyproject.toml
	$(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install "$(TORCH)"
	.venv-cluster/bin/python -m pip install --editable ".[dev,ray]" "moto[server]" s3fs
	touch $@

.venv-torchvision/installed: pyproject.toml
	$(PYTHON) -m venv .venv-torchvision
	.venv-torchvision/bin/python -m pip install $(TORCHVISION)
	.venv-torchvision/bin/python -m pip install --editable ".[dev,torchvision]"
	touch $@
