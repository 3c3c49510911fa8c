"""Installs speechbrain_ext: the ranges here are what should work, requirements.txt is what was tested."""

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
    packages=find_packages(include=["speechbrain_ext", "speechbrain_ext.*"]),
    python_requires=">=3.10,<3.13",
    install_requires=[
        "speechbrain>=1.1.0,<1.2",
        "torch>=2.11,<2.12",
        "torchaudio>=2.11,<2.12",
        "hyperpyyaml>=1.2.2",
        "numpy>=1.24",
        "scipy>=1.10",
        "pandas>=2.0",
        "soundfile>=0.12",
        "matplotlib>=3.7",
    ],
    extras_require={
        "tensorboard": ["tensorboard"],
        "shards": ["webdataset"],  # to read them elsewhere; ours need none
        "test": ["pytest", "hypothesis", "ruff"],
    },
)
