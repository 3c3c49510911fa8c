"""Installs speechbrain_ext. The tested versions are in requirements.txt."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="speechbrain-ext",
    version="0.1.0",
    description="SphereFace2 speaker verification for SpeechBrain",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[
        *find_packages(include=["speechbrain_ext", "speechbrain_ext.*"]),
        "speechbrain_ext.recipes",
    ],
    # the wheel carries the recipes inside the package
    package_dir={"speechbrain_ext.recipes": "recipes"},
    package_data={
        "speechbrain_ext.recipes": [
            "*/*/*.py",
            "*/*/*.md",
            "*/*/hparams/*.yaml",
        ]
    },
    entry_points={
        "console_scripts": [
            "speechbrain-ext = speechbrain_ext.cli.main:main",
        ]
    },
    python_requires=">=3.10",
    # `make test-lowest` tests the lower bounds (requirements-lowest.txt)
    install_requires=[
        "speechbrain>=1.1.0,<1.2",
        # a pair; newer versions of torch have no torchaudio on PyPI
        "torch>=2.7.1,<2.12",
        "torchaudio>=2.7.1,<2.12",
        "hyperpyyaml>=1.2.3",
        "numpy>=1.24",
        "scipy>=1.12",
        "pandas>=2.0",
        "soundfile>=0.12.1",
        "matplotlib>=3.7",
        "filelock>=4.1",
        "jinja2>=3.1",
    ],
    extras_require={
        "tensorboard": ["tensorboard"],
        "safetensors": ["safetensors>=0.4"],  # weights beside the .ckpt
        "shards": ["webdataset"],  # to read them elsewhere; ours need none
        "onnx": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.22"],
        # other formats of speechbrain-ext embed
        "embed": ["pyarrow>=15", "kaldiio>=2.18"],
        # other runtimes, for their tests and benchmarks/interop.py
        "interop": [
            "sherpa-onnx>=1.12",
            "wespeakerruntime>=1.0",
            "pyannote.audio>=4.0",
        ],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],
        "test": [
            *("pytest", "pytest-xdist", "pytest-cov", "hypothesis"),
            *("ruff", "yamllint", "codespell"),
        ],
    },
)
