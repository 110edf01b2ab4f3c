# `make help` lists the targets. Everything works from a fresh clone with Python, git and make:
# the virtual environment is made on demand, and made again only when pyproject.toml changes.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
DETKIT := $(BIN)/detkit
STAMP := .venv/.stamp
DEMO := demo-run
ORT_WEB := 1.30.0

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu test-browser test-openvino test-web lint format bench check-docs docs docs-figures equations build clean

help:  ## list the targets
	@echo "usage: make TARGET [PYTHON=python3.12] [PIP_ARGS='--extra-index-url ...']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev]'
	@touch $(STAMP)

# A budget of work, not of time: small images and few of them, and an end once that is enough, so
# that a slow machine gets as good a detector, later.
demo: $(STAMP)  ## write a small data set, train an SSD on it, evaluate, draw
	$(DETKIT) demo $(DEMO)/data --force
	$(DETKIT) train $(DEMO)/data --model ssd --set size=192 --batch-size 8 --max-steps 500 \
		--until mAP=.9 -o $(DEMO)/run --force
	$(DETKIT) eval $(DEMO)/run $(DEMO)/data --split test --fail-under mAP=.8 \
		--report $(DEMO)/report.html --force
	$(DETKIT) detect $(DEMO)/run $(DEMO)/data/JPEGImages \
		--draw $(DEMO)/drawn -o $(DEMO)/detections.jsonl --force
	@echo
	@echo "look at:   $(DEMO)/drawn (pictures)  $(DEMO)/report.html (the evaluation)"
	@echo "your own:  $(DETKIT) check FOLDER"
	@echo "           $(DETKIT) train FOLDER --model ssd --weights imagenet -o my-run"
	@echo "           $(DETKIT) detect my-run IMAGE... --draw drawn"

test: $(STAMP)  ## run the tests that take seconds each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --durations=10 \
		-m "not slow and not gpu and not browser"

test-slow: $(STAMP)  ## run all tests that this machine can run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not gpu and not browser"

test-gpu: $(STAMP)  ## compare a GPU with the CPU, where there is one
	$(BIN)/python -m pytest -m gpu

test-browser: $(STAMP)  ## look at the reports in headless Chromium, where there is one
	$(BIN)/python -m pytest -m browser

# Both are fetched once, into .cache: OpenVINO into an environment of its own, since it has its own
# wishes for numpy; onnxruntime-web is a folder of scripts.
test-openvino: $(STAMP)  ## hold exported files to onnxruntime in OpenVINO, which it fetches
	@test -x .cache/openvino/bin/python || $(PYTHON) -m venv .cache/openvino
	.cache/openvino/bin/python -m pip install --quiet --disable-pip-version-check numpy openvino
	DETKIT_OPENVINO=$(CURDIR)/.cache/openvino/bin/python $(BIN)/python -m pytest -m openvino -n 0

test-web: $(STAMP)  ## run an exported file in headless Chromium by onnxruntime-web, which npm fetches
	npm install --silent --no-save --prefix .cache/web onnxruntime-web@$(ORT_WEB)
	DETKIT_ORT_WEB=$(CURDIR)/.cache/web/node_modules/onnxruntime-web $(BIN)/python -m pytest \
		-m browser -n 0 tests/test_other_runtimes.py

lint: $(STAMP)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## put the source into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure; each benchmark prints its ratio
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file; done

check-docs: $(STAMP)  ## compare the help texts in README.md and docs/ with the program
	$(BIN)/python tests/check_docs.py

docs: $(STAMP)  ## write the program's help texts into README.md and docs/
	$(BIN)/python tests/check_docs.py --write

docs-figures: $(STAMP)  ## train on the demo data and write what came out into README.md and docs/
	$(BIN)/python tests/check_docs.py --measure

equations: $(STAMP)  ## write docs/equations.md: the code of each paper's equations
	$(BIN)/python tests/equations.py

build: $(STAMP)  ## build and check the wheel and the source archive in dist/
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/try_wheel.py dist/*.whl $(PIP_ARGS)

clean:  ## remove what the other targets made
	rm -rf .venv dist build $(DEMO) *.egg-info
