# make demo   trains, verifies and loads a speaker encoder on made-up voices
# make test   all tests
# make style  what the tests check of the style, with mends
# The first of them sets up .venv; it is reused while its requirements last.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := $(CURDIR)/.venv/bin/python
STAMP := .venv/requirements.installed
RECIPE := recipes/VoxCeleb/SpeakerRec
DEMO := $(CURDIR)/results/demo
LOSS ?= csphereface2
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
	--output_folder=$(DEMO)/$(LOSS) \
	--dev_speakers=6 --dev_trials=600 \
	--n_mels=40 --block_sizes=[1,1,1,1] --embedding_size=64 \
	--number_of_epochs=$(EPOCHS) --batch_size=32 --lr_scale=1.0 \
	--sentence_len=1.5 --min_draws=4 --warmup_epochs=1 \
	$(MARGIN) \
	--average_checkpoints=2 --precision=fp32

.PHONY: demo test style venv clean

demo: venv
	$(PY) -m speechbrain_ext.dataio.toy_corpus $(DEMO)/corpus
	rm -rf $(DEMO)/$(LOSS) $(DEMO)/verification_$(LOSS)
	cd $(RECIPE) && $(PY) train_speaker_embeddings.py \
		hparams/resnet_$(LOSS)_small.yaml $(DEMO_OPTIONS)
	cd $(RECIPE) && $(PY) speaker_verification_cosine.py \
		hparams/verification_resnet_small.yaml \
		--data_folder=$(DEMO)/corpus \
		--pretrained_folder=$(DEMO)/$(LOSS)/pretrained \
		--cohort_manifest=$(DEMO)/$(LOSS)/save/train.csv \
		--output_folder=$(DEMO)/verification_$(LOSS)
	$(PY) $(RECIPE)/verify_files.py $(DEMO)/$(LOSS)/pretrained \
		$(DEMO)/corpus/wav/id20001/s01/00001.wav \
		$(DEMO)/corpus/wav/id20001/s02/00001.wav
	@echo "All voices are synthetic: these figures say nothing of real speech."
	@echo "The DET plot: $(DEMO)/verification_$(LOSS)/det.png"

test: venv
	$(PY) -m pytest --doctest-modules speechbrain_ext tests

style: venv
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

venv:
	@cat requirements.txt setup.py | cmp -s - $(STAMP) || { \
		set -e; \
		rm -rf .venv; \
		$(PYTHON) -m venv .venv; \
		$(PY) -m pip install -q -r requirements.txt; \
		$(PY) -m pip install -q --no-deps --no-build-isolation -e .; \
		cat requirements.txt setup.py > $(STAMP); \
	}

clean:
	rm -rf .venv results
