"""convert, export and info."""

import importlib.util
import shutil

import pytest
import torch
from command_runs import add_calibrations, answer, refusal, run
from wespeaker_shapes import *  # noqa: F403
