# Everything runs inside .venv; it is reused as long as constraints.txt and pyproject.toml are what it was made from.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-$(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: install demo test test-slow isic2017 schemas clean

install: $(STAMP)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[timm,dev]"
	rm -f $(VENV)/.made-from-*
	touch $@

demo: install
	$(BIN)/python -m pipeline.run --config demo.yaml

test: install
	$(BIN)/python -m pytest -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

isic2017: install
	$(BIN)/python -m pipeline.run --config isic2017.yaml

schemas: install
	$(BIN)/python -m docs.make_schemas

clean:
	rm -rf $(VENV) artifacts *.egg-info
