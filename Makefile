# `make demo` and `make test` need nothing but Python 3.10 to 3.12; both create .venv if it is missing.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
PIP = $(VENV)/bin/pip --disable-pip-version-check
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test check bench soak clean

help:
	@echo "make demo [TEXTS=file.jsonl] [COLUMN=text]   train, convert, serve and predict: the whole way"
	@echo "make test                                    every test, those against a real tritonserver too"
	@echo "make check                                   lint, format, types"
	@echo "make bench                                   the benchmarks that the README quotes"
	@echo "make soak                                    the long forms: a million rows, hours of faults and overload"
	@echo "make clean                                   remove the environment and the demo's models"

demo: $(VENV)/.demo
	$(VENV)/bin/bertopic-inference demo $(if $(TEXTS),--texts "$(TEXTS)") $(if $(COLUMN),--column "$(COLUMN)")

# Side by side, since the servers' tests wait a lot; the others give way to them, and report when both are done.
test: $(VENV)/.dev
	@nice $(VENV)/bin/python -m pytest tests/unit >$(VENV)/unit-tests.log 2>&1 & unit=$$!; \
	$(VENV)/bin/python -m pytest tests/faults tests/integration; servers=$$?; \
	wait $$unit; unit=$$?; cat $(VENV)/unit-tests.log; exit $$((servers | unit))

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/end_to_end.py --out benchmarks/results $(if $(TEXTS),--texts "$(TEXTS)")
	$(VENV)/bin/python benchmarks/serving.py --out benchmarks/results $(if $(TEXTS),--texts "$(TEXTS)")
	$(VENV)/bin/python benchmarks/engine.py --out benchmarks/results
	$(VENV)/bin/python benchmarks/neighbors.py --out benchmarks/results

soak: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/soak.py --out benchmarks/results $(if $(TEXTS),--texts "$(TEXTS)")
	$(VENV)/bin/python benchmarks/soak.py --faults $(if $(TEXTS),--texts "$(TEXTS)")
	$(VENV)/bin/python benchmarks/overload.py --out benchmarks/results $(if $(TEXTS),--texts "$(TEXTS)")
	BERTOPIC_SOAK=1 $(VENV)/bin/python -m pytest tests/faults

clean:
	rm -rf $(VENV) .demo

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.12 found. Install one, for example: apt-get install python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot create environments. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@touch $@
