# make quickstart   install what is missing, then RL on a real small model (at most 15 minutes on 2 CPU cores)
# make recipe       install what is missing, then the whole recipe at small scale (at most 30 minutes on 2 CPU cores)
# make test         install what is missing, then lint, type check and every test (under 20 minutes)
# make setup        only install
SHELL := /bin/bash
PYTHON := .venv/bin/python
READY := .venv/.ready

.PHONY: setup quickstart recipe test lint kernels clean

setup: $(READY) kernels

$(READY): requirements/cpu.lock setup.py tools/set_up.sh
	tools/set_up.sh

kernels: $(READY)
	@if [ -f megatron_k15/kernels/build.py ]; then $(PYTHON) -m megatron_k15.kernels.build; fi

quickstart: setup
	$(PYTHON) -m torch.distributed.run --standalone --nproc-per-node 1 \
	  -m megatron_k15.train_rl --config examples/smollm2_math/quickstart.yaml $(ARGS)

recipe: setup
	OMP_WAIT_POLICY=passive $(PYTHON) examples/recipe/recipe.py $(ARGS)

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

test: setup lint
	OMP_WAIT_POLICY=passive $(PYTHON) -m pytest -n 2 --no-loadscope-reorder $(ARGS)

clean:
	rm -rf build .cache runs
