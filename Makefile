# `make demo` and `make test` set up all they need: a virtual environment of their own, with the default build of torch.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
BIN := $(VENV)/bin
# No model hub is asked for anything.
export HF_HUB_OFFLINE := 1

.PHONY: help demo docs test test-all test-oldest lint clean

help:
	@echo "make demo      train on the sample scene, map another one, and say how good the map is (minutes)"
	@echo "make docs      the site, in build/docs"
	@echo "make test      linters, types, and every test but the slow ones"
	@echo "make test-oldest  the same tests with the oldest versions of all libraries that are allowed"
	@echo "make test-all  the slow tests as well; with GEOSEG_REAL_DATA=FOLDER those on real scenes"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/geoseg tile sample_data/scene.tif --labels sample_data/labels.gpkg --class-field class --chip-size 128 \
	    --out demo/chips
	$(BIN)/geoseg train demo/chips --width 16 --out demo/model
	$(BIN)/geoseg predict sample_data/scene_to_predict.tif --model demo/model --out demo/predictions
	$(BIN)/geoseg evaluate demo/chips --model demo/model --out demo/report
	$(BIN)/geoseg evaluate demo/predictions/scene_to_predict_classes.tif sample_data/labels_to_predict.gpkg \
	    --class-field class --out demo/map_report
	$(BIN)/python docs/draw_demo.py demo

docs: $(VENV)/installed
	$(BIN)/sphinx-build -W -b html docs build/docs

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 -m "not slow and not real"

$(OLDEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python tests/oldest.py > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --editable ".[dev]" --constraint $(OLDEST)/oldest.txt
	@touch $@

# Old libraries warn of what newer ones that they stand on will drop.
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/pytest -n 2 -W ignore::DeprecationWarning -m "not slow and not real"

test-all: lint
	$(BIN)/pytest

clean:
	rm -rf $(VENV) $(OLDEST) build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
