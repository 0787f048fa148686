# Everything runs inside .venv; it is reused as long as constraints.txt and pyproject.toml are what it was made from.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-$(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)
# zennit-crp demands an old zennit; beside these two, its environment sees the packages of .venv, its own first.
PEER := .venv-benchmark
PEER_PACKAGES := zennit-crp==0.6.0 zennit==0.4.6
PEER_STAMP := $(PEER)/.made-from-$(shell echo $(PEER_PACKAGES) | cksum | cut -d' ' -f1)
SITE_PACKAGES := import sysconfig; print(sysconfig.get_path('purelib'))

# Benchmarks that run on one thread each.
SINGLE := spray cav coverage detection heatmap-loss isnet mnist-isnet right-reason

.PHONY: install demo test test-slow isic2017 schemas metrics-page $(SINGLE:%=benchmark-%) benchmark-contest benchmark-attribution attribution-table clean

install: $(STAMP)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[timm,dev]"
	rm -f $(VENV)/.made-from-*
	touch $@

demo: install
	$(BIN)/python -m pipeline.run --config demo.yaml

# Processes that share the tests; one thread each.
JOBS ?= 2
test: install
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS)

test-slow: install
	$(BIN)/python -m pytest -m slow

isic2017: install
	$(BIN)/python -m pipeline.run --config isic2017.yaml

schemas: install
	$(BIN)/python -m docs.make_schemas

metrics-page: install
	$(BIN)/python -m docs.make_metrics_page

attribution-table: install
	$(BIN)/python -m docs.make_attribution_table

$(SINGLE:%=benchmark-%): benchmark-%: install
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$(subst -,_,$*)

# demo, trial, backgrounds or isic2017
TASK ?= demo
benchmark-contest: install
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.contest $(TASK)

benchmark-attribution: $(PEER_STAMP)
	$(PEER)/bin/python -m benchmarks.attribution --output artifacts/benchmarks/attribution.json

$(PEER_STAMP): $(STAMP)
	$(BIN)/python -m venv --clear $(PEER)
	echo '*' > $(PEER)/.gitignore
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(PEER_PACKAGES)
	$(BIN)/python -c "$(SITE_PACKAGES)" > "$$($(PEER)/bin/python -c "$(SITE_PACKAGES)")/project.pth"
	touch $@

clean:
	rm -rf $(VENV) $(PEER) artifacts *.egg-info
