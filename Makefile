# Two commands for a newcomer: `make series` runs the five notebooks, `make test` runs every test.
# `make colab` runs the notebooks as on Colab; `make address REPO=owner/name` says where this is.
PYTHON ?= python3
VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/ready
COLAB := .venv-colab
CLASSIC := .venv-classic
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
NBVAL := -q -x -p no:cacheprovider -W ignore --nbval-lax --nbval-current-env --nbval-cell-timeout=600

.PHONY: series test lint colab browser address clean

# Each environment holds a file `ready`, as old as its last installation.
$(READY): requirements.txt tests/requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

series: $(READY)
	$(BIN)/jupyter nbconvert --to notebook --execute --ExecutePreprocessor.timeout=-1 \
	  --output-dir output/notebooks $(NOTEBOOKS)
	@echo "Executed notebooks: output/notebooks/   Runs, with checkpoints, metrics.csv and pictures: output/*/runs/"

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# One nbval process a notebook, stopping at its first failing cell: later cells only repeat the error.
test: lint
	$(BIN)/python -m pytest -q
	rm -rf output/smoke
	for notebook in $(NOTEBOOKS); do \
	  EVALIB_SMOKE=1 $(BIN)/python -m pytest $(NBVAL) $$notebook || exit 1; \
	done

# With Colab's versions and Python, and stand-ins for it in tests/colab/.
$(COLAB)/ready: requirements.txt tests/colab/preinstalled.py tests/colab/installed-cpu.txt
	$(PYTHON) tests/colab/preinstalled.py $(COLAB)
	touch $@

colab: $(COLAB)/ready
	$(COLAB)/bin/python tests/colab/series.py

address:
	@$(PYTHON) .github/address.py $(if $(findstring command line,$(origin REPO)),'$(REPO)')

# Sliders, uploads, TensorBoard and the camera's script in headless Chromium: in JupyterLab, and in
# the classic notebook with Colab's ipywidgets, a second environment that borrows the rest.
browser: $(READY) $(CLASSIC)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt
	$(BIN)/python -m pytest -q -m browser tests/browser

$(CLASSIC)/ready: tests/browser/classic.txt $(READY)
	$(PYTHON) -m venv --clear $(CLASSIC)
	$(CLASSIC)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/browser/classic.txt
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
	  > $$($(CLASSIC)/bin/python -c "import site; print(site.getsitepackages()[0])")/rest.pth
	touch $@

clean:
	rm -rf output .pytest_cache .ruff_cache
