# make venv   a virtual environment in .venv with all that is needed, and nothing else
# make demo   trains and tests a Video Swin with semantic tokens on generated videos (minutes)
# make demo-detection  the same for a Cascade Mask R-CNN on generated images
# make test   the tests
# make lint   ruff and mypy

PYTHON ?= python3
BIN := .venv/bin
DEMO_OUTPUT := output/demo/stvit_swin_motion

.PHONY: venv demo demo-detection test lint

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

demo-detection: venv
	$(BIN)/python tools/make_shapes.py data/shapes
	$(BIN)/python tools/run_net.py --cfg configs/demo/swin_shapes.yaml
	$(BIN)/python tools/predict.py data/shapes/test/00000.png --cfg configs/demo/swin_shapes.yaml \
	    --output output/demo/swin_shapes/results/found.png

test: venv
	$(BIN)/python -m pytest

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
