# make run: the demo. make test: everything. Both install what they need into .venv.
PYTHON ?= python3
# Test processes at once, more than cores: tests mostly wait for sockets, clocks and daemons. The tests of one file stay
# together, so that each daemon is started by few of them.
JOBS ?= 4
SHARE := -n $(JOBS) --dist loadfile --no-loadscope-reorder
BIN := .venv/bin
SOURCES := pyproject.toml requirements.lock

.PHONY: run test check unit bench boards coverage lock fuzz image wheel clean

run: .venv/run.stamp
	$(BIN)/popproxy demo

test: .venv/dev.stamp
	$(BIN)/python tests/integration/packages.py
	@# Hundreds of tests start popproxy; where nothing writes bytecode, each would compile all of it again.
	@$(BIN)/python -m compileall -q popproxy plugins tests
	$(BIN)/python -m pytest $(SHARE) $(TESTS)

unit: .venv/dev.stamp
	$(BIN)/python -m pytest $(SHARE) -m "not integration" $(TESTS)

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pyright

# Each room by its own tests: what another room's tests happen to touch does not count.
coverage: .venv/dev.stamp
	@for room in wire api core metrics config net sample run; do \
		echo "== popproxy.$$room by tests/$$room"; \
		$(BIN)/python -m pytest -q --no-header -p no:warnings tests/$$room -m "not integration" \
			--cov=popproxy.$$room --cov-branch --cov-report=term:skip-covered | sed -n '/^Name/,$$p' || exit 1; \
	done
	@echo "== popproxy_plugins by tests/plugins"
	@$(BIN)/python -m pytest -q --no-header tests/plugins --cov=popproxy_plugins --cov-branch \
		--cov-report=term:skip-covered | sed -n '/^Name/,$$p'

bench: .venv/dev.stamp
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

# grafana/dashboards from grafana/boards.
boards: .venv/dev.stamp
	$(BIN)/python -m grafana.boards

# Exact versions of everything, for Python 3.11 and later.
lock: .venv/dev.stamp
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --no-emit-index-url -o requirements.lock

# A container image. Where none can be pulled: BASE=some/image with Python 3.11 or later, and what your builder needs.
BASE ?= docker.io/library/python:3.13-slim-bookworm
image:
	buildah bud $(BUILDAH_ARGS) --ignorefile .containerignore --build-arg BASE=$(BASE) -t popproxy -f deploy/Containerfile .

wheel: .venv/dev.stamp
	$(BIN)/python -m pip wheel --no-deps -w dist .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "popproxy needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -q && \
		apt-get install -q -y python3-venv; } || { echo "install the package python3-venv first"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install -q -c requirements.lock -e .
	@touch $@

.venv/dev.stamp: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install -q -c requirements.lock -e '.[dev]'
	@touch $@ .venv/run.stamp

clean:
	rm -rf .venv dist build
