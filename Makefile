# make smoke | mini | test | test-faults | test-slurm | bench, make report STUDY=mini: each sets up .venv first.
# FAISS=gpu installs FAISS for GPUs, also into a .venv that has the other one; it stays until FAISS=cpu.
PYTHON ?= python3
INSTALLED := $(shell cat .venv/faiss 2>/dev/null)
FAISS ?= $(or $(INSTALLED),cpu)
STUDY ?= smoke
SELECT ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: smoke mini report test test-faults test-slurm bench lint clean

smoke: .venv/ready
	snakemake --cores all --configfile config/smoke.yaml

mini: .venv/ready
	snakemake --cores all --configfile config/mini.yaml

report: .venv/ready
	snakemake --cores all report --configfile config/$(STUDY).yaml

test: .venv/ready
	pytest

test-faults: .venv/ready
	pytest -m "slow or not slow" tests/faults

test-slurm: .venv/ready
	pytest -rs tests/slurm -k "$(SELECT)"

bench: .venv/ready
	python -m benchmarks $(BENCH)

lint: .venv/ready
	ruff check . && ruff format --check . && snakefmt --check Snakefile workflow

# faiss-cpu and faiss-gpu install the same folder: one is removed before the other is installed.
ifneq ($(FAISS),$(INSTALLED))
.venv/ready: another-faiss
endif
.PHONY: another-faiss
another-faiss:
	if test -x .venv/bin/python; then .venv/bin/python -m pip uninstall --quiet --yes faiss-cpu faiss-gpu; fi
	rm -f .venv/faiss

.venv/ready: pyproject.toml requirements.txt setup/kenlm.sh
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint requirements.txt --editable '.[$(FAISS),test]'
	setup/kenlm.sh .venv
	echo $(FAISS) > .venv/faiss
	touch $@

clean:
	rm -rf .venv .snakemake
