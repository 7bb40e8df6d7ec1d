# Every target makes the environment when it is missing. VENV=... uses another one.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo docs test test-fast coverage test-arm test-pythons test-tuf check format oracle bench soak test-tools clean

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[builder,fleet,json,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/shoal demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	found=$$($(BIN)/python -m vulture) || test $$? = 3 && \
	  ! echo "$$found" | grep -E 'unused (function|method|class|property|import)|unreachable'

# The documentation as a site in site/, to be read from the folder or served as it is.
docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo 'site/index.html'

format: $(STAMP)
	$(BIN)/ruff check --fix --unsafe-fixes .
	$(BIN)/ruff format .

# Programs that tests run: brokers, databases, browsers, emulators. Without apt or root the
# tests that need a missing one are skipped with the reason; with CI=true they fail.
test-tools:
	bash tests/install_tools.sh

# tflite-runtime needs numpy 1: an environment of its own, for the tests of that runtime.
.venv-tflite: pyproject.toml
	test -x .venv-tflite/bin/python || $(PYTHON) -m venv .venv-tflite
	.venv-tflite/bin/pip install --quiet --disable-pip-version-check \
	  'tflite-runtime==2.14.0' 'numpy<2' 'msgspec>=0.19,<1' 'pyyaml>=6' 'tokenizers>=0.20,<1'
	touch .venv-tflite

# Half of the time of many tests is waiting: six workers keep two cores busy. WORKERS=0 runs one
# test after the other. The workers share what Python compiled.
WORKERS ?= 6
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

test: $(STAMP) test-tools .venv-tflite
	$(PYTEST)

# No services, no training: for work.
FAST := tests/contracts tests/docs tests/fleet/rollout tests/agent/trust tests/agent/system \
  tests/agent/update/test_machine.py tests/agent/update/test_journal.py \
  tests/model_builder/recipes tests/model_builder/generate/test_gguf_oracle.py
test-fast: $(STAMP)
	$(BIN)/python -m pytest -q -x -m 'not soak and not slow' $(FAST)

coverage: $(STAMP) test-tools .venv-tflite
	$(PYTEST) --cov=agent --cov=contracts --cov=fleet --cov=model_builder --cov-report=term:skip-covered

# The agent on 64- and 32-bit ARM: Debian roots in .arm, under user-mode emulation. Needs root.
test-arm: $(STAMP)
	$(BIN)/python -m tests.arm.check

# The agent's tests on the other Pythons that boards have: JetPack 6 has 3.10, Ubuntu 24.04 and
# JetPack 7 have 3.12, Raspberry Pi OS 13 has 3.13. Each that is not here is named and left out.
PYTHONS ?= python3.10 python3.12 python3.13 python3.14
test-pythons: test-tools
	set -e; for python in $(PYTHONS); do \
	  $$python -c '' 2>/dev/null || { echo "$$python: not here, left out"; continue; }; \
	  env=.venv-pythons/$$python; test -x $$env/bin/python || $$python -m venv $$env; \
	  $$env/bin/pip install --quiet --disable-pip-version-check -e '.[builder,fleet,json,dev]'; \
	  $$env/bin/python -m pytest -q -m 'not soak and not slow' tests/contracts tests/agent; \
	done

# The public conformance suite for TUF clients, with the library that it is written for.
TUF_SUITE ?= .tuf-conformance
test-tuf: $(STAMP) test-tools
	test -d $(TUF_SUITE) || git clone --quiet https://github.com/theupdateframework/tuf-conformance $(TUF_SUITE) \
	  || { echo 'no suite: set TUF_SUITE to a checkout of theupdateframework/tuf-conformance'; exit 1; }
	test -x .venv-tuf/bin/pytest || { $(PYTHON) -m venv .venv-tuf && .venv-tuf/bin/pip install --quiet \
	  --disable-pip-version-check 'tuf==7.0.0' 'securesystemslib[crypto]' 'pytest>=9'; }
	cd $(TUF_SUITE) && PYTHONPATH=$(CURDIR) $(CURDIR)/.venv-tuf/bin/python -m pytest tuf_conformance -q \
	  --entrypoint '$(abspath $(BIN))/python $(CURDIR)/tests/conformance/client.py'

# A real Home Assistant core in an environment of its own (Python 3.13), with its MQTT integration.
HOME_PYTHON ?= $(shell command -v python3.13 || ls -d $$HOME/.pyenv/versions/3.13.*/bin/python 2>/dev/null | tail -1)
HOME_CORE := .venv-homeassistant/bin/hass
$(HOME_CORE):
	test -n '$(HOME_PYTHON)' || { echo 'no Python 3.13: set HOME_PYTHON'; exit 1; }
	$(HOME_PYTHON) -m venv .venv-homeassistant
	.venv-homeassistant/bin/pip install --quiet --disable-pip-version-check uv
	.venv-homeassistant/bin/uv pip install --quiet --python .venv-homeassistant/bin/python \
	  'homeassistant==2025.4.4' 'paho-mqtt==2.1.0'

.PHONY: test-homeassistant
test-homeassistant: $(STAMP) test-tools $(HOME_CORE)
	HOME_ASSISTANT=$(abspath $(HOME_CORE)) $(BIN)/python -m pytest -q -m soak tests/home_assistant

# The example for Node-RED with a real one, which npm installs in a folder of its own.
.PHONY: test-node-red
test-node-red: $(STAMP) test-tools
	npm install --silent --no-audit --no-fund --prefix .cache/node-red node-red@4
	NODE_RED=$(CURDIR)/.cache/node-red/node_modules/.bin/node-red $(BIN)/python -m pytest -q -m soak \
	  tests/fleet/broker/test_applications.py -k node_red

# Logits of small random decoders by another library, which the tests compare with.
oracle:
	test -x .venv-oracle/bin/python || $(PYTHON) -m venv .venv-oracle
	.venv-oracle/bin/pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'transformers==5.24.0' 'peft==0.21.0' 'sentencepiece==0.2.3'
	.venv-oracle/bin/python tests/model_builder/generate/oracle/make_oracle.py
	.venv-oracle/bin/python tests/model_builder/generate/oracle/make_adapters.py
	.venv-oracle/bin/python tests/model_builder/generate/oracle/make_sentencepiece.py
	.venv-oracle/bin/python tests/model_builder/generate/oracle/make_ropes.py

bench: $(STAMP)
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script --quick || exit 1; done

soak: $(STAMP) test-tools
	$(BIN)/python -m pytest -m soak -s

# Everything goes wrong at once, for half an hour; CHAOS="--minutes 3 --seed 2" for another run.
CHAOS ?=
chaos: $(STAMP) test-tools
	$(BIN)/python -m tests.soak.chaos $(CHAOS)

clean:
	rm -rf .venv .venv-pythons .venv-tflite .venv-oracle .venv-tuf .venv-homeassistant .tuf-conformance .arm .pytest_cache .mypy_cache .ruff_cache build dist

# Sign-in with the certified provider of Node (npm fetches it), beside the one that tests have.
.PHONY: test-openid
test-openid: test-tools
	npm install --silent --no-audit --no-fund --prefix .cache/openid oidc-provider@9
	OIDC_NODE_FOLDER=$(CURDIR)/.cache/openid .venv/bin/python -m pytest -q tests/fleet/openid
