"""Training steps on another device: nothing stays on the host or waits."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT

SCRIPT = ROOT / "tests" / "helpers" / "steps_on_a_device.py"
# each kind of loss, network and filter, and what else happens on the device
CASES = (
    "resnet_csphereface2_small",
    "resnet_asphereface2_small",
    "resnet_csphereface2_face_small",
    "resnet_asphereface2_face_small",
    "resnet_aam_subcenter_small + label_filter={kind: SubCenterDrop}",
    "resnet_am_small + label_filter={kind: ORGate, top_k: 3}",
    "resnet_softmax_small + label_filter={kind: LossGate, gate: dynamic}",
    "resnet_csphereface2_small + label_filter={kind: LabelCorrection}",
    "resnet_softmax_angularprototypical",
    "resnet_csphereface2 + noise",
    "resnet_aam_dynamic",
    "resnet_aam_dynamic + padded + spec_augment=null",
    "resnet34_gemini_aam + padded",
    "dfresnet60_aam + padded",
    "ecapa_csphereface2 + padded",
    "fastresnetse34_am + padded",
    "vggm40_am",
    "osv_ressetdnn_am + padded",
    "osv_seresnet34_msea_am + padded",
)
# it reads the length of the shortest utterance, which must be long enough
FAULTY = "vggm40_am + padded"


def test_a_training_step_mixes_no_devices_and_reads_no_value():
    if not hasattr(
        torch.utils.backend_registration,
        "_setup_privateuseone_for_python_backend",
    ):
        pytest.skip("this PyTorch has no devices that are made in Python")
    done = subprocess.run(
        [sys.executable, SCRIPT, *CASES, FAULTY],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    *said, last = done.stdout.splitlines()
    assert said == [f"{case} copies: 0" for case in CASES]
    assert "DataDependentOutputException" in last and "VGG.py" in last
