# make venv            create a virtual environment with all dependencies in .venv
# make demo            train and test a Video Swin with semantic tokens on generated videos (minutes)
# make demo-images     train and test DeiT, dense and with semantic tokens, on generated images
# make demo-detection  train and test a Cascade Mask R-CNN on generated images
# make test            run the tests, two files at a time, except those that need SLURM
# make test-slurm      run the tests that start SLURM clusters of four nodes on this machine (two clusters,
#                      two files at a time); installs Debian's packages if possible, and skips the tests
#                      if SLURM is missing
# make lint            run ruff and mypy

PYTHON ?= python3
BIN := .venv/bin
DEMO_OUTPUT := output/demo/stvit_swin_motion

.PHONY: venv demo demo-images demo-detection test test-slurm lint

venv: .venv/.installed

.venv/.installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[coco,dev]'
	touch $@

demo: venv
	$(BIN)/python tools/make_motion_videos.py data/motion
	$(BIN)/python tools/run_net.py --cfg configs/demo/stvit_swin_motion.yaml
	$(BIN)/python tools/plot_attention.py --cfg configs/demo/stvit_swin_motion.yaml \
	    --output $(DEMO_OUTPUT)/results/attention.png
	@echo "Results and pictures: $(DEMO_OUTPUT)/results"

demo-images: venv
	$(BIN)/python tools/make_digit_images.py data/digits
	$(BIN)/python tools/run_net.py --cfg configs/demo/deit_digits.yaml \
	    configs/demo/stvit_deit_digits.yaml
	@echo "Results: output/demo/deit_digits/results and output/demo/stvit_deit_digits/results"

demo-detection: venv
	$(BIN)/python tools/make_shapes.py data/shapes
	$(BIN)/python tools/run_net.py --cfg configs/demo/swin_shapes.yaml
	$(BIN)/python tools/predict.py data/shapes/test/00000.png --cfg configs/demo/swin_shapes.yaml \
	    --output output/demo/swin_shapes/results/found.png

# Install Debian packages ($(2)) where a program ($(1)) is missing, and where that is allowed.
define install
	@if ! command -v $(1) > /dev/null && command -v apt-get > /dev/null && [ $$(id -u) = 0 ]; \
	then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq --yes --no-install-recommends $(2) || true; \
	fi
endef

# torch.compile needs a C++ compiler.
test: venv
	$(call install,g++,g++)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/slurm/nodes

test-slurm: venv
	$(call install,slurmctld,slurm-wlm munge)
	$(BIN)/python -m pytest -n 2 --dist loadfile -rs --durations 10 tests/slurm/nodes

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
