# make demo   trains, verifies and loads a speaker encoder on synthetic voices
# make test   all tests, on two cores
# make test-lowest   all tests with the lowest versions that setup.py allows
# make lint   ruff, yamllint and codespell; make style fixes what ruff can fix
# make coverage   the share of the package that unit tests run, at least 90 %
# make docs   the documents as a website in build/site (installs .[docs])
# make hparams   writes the recipes in hparams/ from hparams/templates/
# make tables   writes the tables of the documents from benchmarks/records/
# make bench   every benchmark, shortened, in half an hour: one Markdown table;
#              BENCH="--data_folder=MINIVOX ..." for those that need options
# make gpu-check   each part on a GPU beside the CPU, and its speed; resumable.
#     GPU_OPTIONS="--minivox=FOLDER" adds options of benchmarks/gpu.py
# make wheels   for `gpu.py --wheels=build/wheels` on a machine without network
# The first of them creates .venv. It is created again when the requirements
# change.

# the first of these commands that works
first_python = $(firstword $(foreach name,$(1),$(shell $(name) --version >/dev/null 2>&1 && command -v $(name))))
PYTHON ?= $(call first_python,python3.11 python3.12 python3.13 python3.10 python3)
PY := $(CURDIR)/.venv/bin/python
LOWEST_PYTHON ?= $(call first_python,python3.10 python3.11 python3)
RECIPE := recipes/VoxCeleb/SpeakerRec
DEMO := $(CURDIR)/results/demo
LOSS ?= csphereface2
RUN := $(DEMO)/$(LOSS)-$(shell date +%Y%m%d-%H%M%S)
EPOCHS := 15
MARGIN := --margin_start_epoch=4 --margin_fix_epoch=10
ifeq ($(LOSS),aam_subcenter)
# under a margin from epoch 4 all classes share one direction by a sub-center
EPOCHS := 20
MARGIN := --margin_start_epoch=9 --margin_fix_epoch=16
endif

# A network that two cores train in a minute and a half
DEMO_OPTIONS := \
	--data_folder=$(DEMO)/corpus \
	--output_folder=$(RUN) \
	--dev_speakers=6 --dev_trials=600 \
	--n_mels=40 --block_sizes=[1,1,1,1] --embedding_size=64 \
	--number_of_epochs=$(EPOCHS) --batch_size=32 --lr_scale=1.0 \
	--sentence_len=1.5 --min_draws=4 --warmup_epochs=1 \
	$(MARGIN) \
	--average_checkpoints=2 --precision=fp32

# Of the machine that gets the wheels
WHEELS_PYTHON ?= 3.12
WHEELS_LEVELS := 2_28 2_27 2_24 2_17

.PHONY: demo test test-lowest hparams tables bench lint style coverage docs \
	venv clean gpu-check wheels

demo: venv
	$(PY) -m speechbrain_ext.synthetic.toy_corpus $(DEMO)/corpus
	cd $(RECIPE) && $(PY) train_speaker_embeddings.py \
		hparams/resnet_$(LOSS)_small.yaml $(DEMO_OPTIONS)
	cd $(RECIPE) && $(PY) speaker_verification_cosine.py \
		hparams/verification_resnet_small.yaml \
		--data_folder=$(DEMO)/corpus \
		--pretrained_folder=$(RUN)/pretrained \
		--cohort_manifest=$(RUN)/save/train.csv \
		--calibration_manifest=$(RUN)/save/dev.csv \
		--output_folder=$(RUN)/verification
	$(PY) $(RECIPE)/verify_files.py $(RUN)/pretrained \
		$(DEMO)/corpus/wav/id20002/s01/00001.wav \
		$(DEMO)/corpus/wav/id20002/s02/00001.wav
	@echo "Both files are of one speaker. The EER above says how often such a decision is wrong."
	@echo "All voices are synthetic: these results say nothing about real speech."
	@echo "The DET plot: $(RUN)/verification/det.png"

# One thread a process: two processes share the cores
TESTS := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal --doctest-modules speechbrain_ext tests

test: venv
	$(TESTS)

test-lowest:
	@$(call make_venv,.venv-lowest,$(LOWEST_PYTHON),requirements-lowest.txt)
	$(subst .venv/,.venv-lowest/,$(TESTS))

lint: venv
	$(PY) -m ruff check . && $(PY) -m ruff format --check .
	$(PY) -m yamllint --strict hparams .pre-commit-config.yaml
	$(PY) -m codespell_lib

hparams: venv
	$(PY) hparams/templates/generate.py

tables: venv
	$(PY) benchmarks/tables.py

bench: venv
	@$(PY) benchmarks/all.py $(BENCH)

style: venv
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

coverage: venv
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -q --cov=speechbrain_ext \
		--cov-fail-under=90 --doctest-modules speechbrain_ext tests/unittests

gpu-check: venv
	$(PY) benchmarks/gpu.py $(GPU_OPTIONS)

# The wheels, and this commit, for a copy of the tree without .git
wheels: venv
	rm -rf build/wheels
	mkdir -p build/wheels
	$(PY) -m pip download -q --no-deps --only-binary=:all: -d build/wheels \
		--implementation cp --python-version $(WHEELS_PYTHON) \
		$(foreach level,$(WHEELS_LEVELS),--platform manylinux_$(level)_x86_64) \
		--platform manylinux2014_x86_64 -r benchmarks/wheels.txt $(MORE)
	git clone -q --bare --depth=1 file://$(CURDIR) build/wheels/repository.git
	du -sh build/wheels

docs: venv
	$(PY) -m pip install -q -e .[docs]
	$(PY) -m mkdocs build --strict

venv:
	@$(call make_venv,.venv,$(PYTHON),requirements.txt)

# make_venv FOLDER,PYTHON,REQUIREMENTS: reuses what it made for the same
# requirements, and leaves alone what somebody else made. pip would compile all
# files on one core. A file that cannot be compiled cannot be imported either.
define make_venv
cat $(3) setup.py | cmp -s - $(1)/requirements.installed || { \
	set -e; \
	if [ -e $(1) ] && [ ! -e $(1)/made_by_make ]; then \
		echo "$(1) was not made by make; move it away first." >&2; \
		exit 1; \
	fi; \
	rm -rf $(1); \
	$(2) -m venv $(1); \
	touch $(1)/made_by_make; \
	$(1)/bin/python -m pip install -q --no-compile -r $(3); \
	$(1)/bin/python -m compileall -q -j 0 $(1)/lib || true; \
	$(1)/bin/python -m pip install -q --no-deps --no-build-isolation -e .; \
	cat $(3) setup.py > $(1)/requirements.installed; \
}
endef

clean:
	rm -rf .venv .venv-lowest $(DEMO)
