"""Package metadata. constraints.txt pins the exact versions used by the tests."""

from setuptools import find_packages, setup

setup(
    name="stvit_video",
    version="0.2.0.dev0",
    description="Semantic Token Vision Transformers (STViT, CVPR 2023) for video recognition",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["stvit_video", "stvit_video.*"]),
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "pytorchvideo>=0.1.5",
        "decord>=0.6.0",
        "av>=17",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",
        "submitit>=1.5.2",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pandas>=2.2",
        "pillow>=10",
        "psutil>=5.9",
        "pyyaml>=6",
        "safetensors>=0.4.5",
        "tensorboard>=2.16",
        "tqdm>=4.66",
    ],
    extras_require={
        "coco": ["pycocotools>=2.0.8"],
        "demo": ["scikit-learn>=1.5"],
        "dev": [
            "imageio-ffmpeg>=0.6",
            "mypy>=1.13",
            "pytest>=8",
            "pytest-xdist>=3.7",
            "ruff>=0.8",
            "scikit-learn>=1.5",
            "timm>=1.0.12",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
)
