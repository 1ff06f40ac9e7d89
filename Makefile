# make demo   install, edit a picture file, print the path of the before/after picture
# make test   install what the tests need, and run them
# make check  style, types and the direction of imports
#
# PYTHON=… selects the interpreter, TORCH=… the torch package (TORCH=torch for the CUDA build).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH  ?= torch==2.13.0
PIP    := .venv/bin/python -m pip --disable-pip-version-check -qq

.PHONY: demo test check

demo: .venv/installed
	.venv/bin/wordbrush edit examples/cat.png --source "a cat on a beach" --target "a dog on a beach" --sheet --out demo/
	@echo "Before and after: demo/sheet.png"

test: .venv/installed-dev
	scripts/test

check: .venv/installed-dev
	scripts/check

# torch first: otherwise the other packages pull in its newest release, whose Linux build brings several gigabytes of
# CUDA. To choose the CPU build, set pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS).
.venv/torch:
	@echo "Installing into .venv: about two minutes, most of it for torch"
	@$(PYTHON) -m venv .venv
	@$(PIP) install "$(TORCH)"
	@touch $@

.venv/installed: .venv/torch pyproject.toml
	@$(PIP) install --editable .
	@touch $@

.venv/installed-dev: .venv/torch pyproject.toml
	@$(PIP) install --editable ".[dev]"
	@touch $@ .venv/installed
