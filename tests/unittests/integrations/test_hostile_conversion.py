"""Odd checkpoints and configs: converted, or refused in one sentence."""

import io
import os
import pathlib
import pickle
import zipfile

import pytest
import torch
from wespeaker_shapes import wespeaker_shapes

from speechbrain_ext.integrations import published_checkpoints
from speechbrain_ext.integrations.wespeaker import BASIC

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module", autouse=True)
def small():
    """A published name whose network is tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASIC, "ResNet1", (1, 1, 1, 1))
        yield


@pytest.fixture
def state(rule_weights):
    """A published state dict of the tiny network."""
    weights = rule_weights(wespeaker_shapes())
    return {
        key: value.float() if value.ndim else value
        for key, value in weights.items()
    }


@pytest.fixture
def refused(tmp_path, capsys):
    """Converts and returns what was said; nothing else may have changed."""

    def refuse(checkpoint, *options, named=True):
        files = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}
        argv = ["--family=wespeaker", f"--checkpoint={checkpoint}"]
        argv += [f"--output_folder={tmp_path / 'out'}", *options]
        with pytest.raises(SystemExit) as left:
            published_checkpoints.main(
                argv + ["--architecture=ResNet1"] * named
            )
        assert files == {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}
        said = f"{left.value.code}\n{capsys.readouterr().err}".strip()
        assert "Traceback" not in said and "weights_only" not in said
        if str(left.value.code) != "2":  # argparse says it in its own form
            assert said.startswith("error: ") and "\n" not in said
        return said

    return refuse


def put(key, value):
    """Puts a value into a state dict."""
    return lambda state: {**state, key: value}


def spoilt(key, value, place=0):
    """Changes one number of a tensor."""

    def spoil(state):
        state[key].view(-1)[place] = value
        return state

    return spoil


FIRST = "conv1.weight"
LAST = "seg_1.weight"
WHOLE = torch.zeros(4, 1, 3, 3)

# What becomes of a good state dict, and a part of what is said of it
TENSORS = [
    (spoilt(FIRST, NAN), "'conv1.weight' is not finite"),
    (spoilt(LAST, INF, -1), "'seg_1.weight' is not finite"),
    (spoilt("bn1.running_mean", -INF), "'bn1.running_mean' is not finite"),
    (spoilt("bn1.running_var", -1.0), "bn1.running_var is a variance below 0"),
    (put(FIRST, WHOLE.int()), "'conv1.weight' has the type int32"),
    (put(FIRST, WHOLE.bool()), "'conv1.weight' has the type bool"),
    (put(FIRST, WHOLE.to(torch.complex64)), "'conv1.weight' is complex"),
    (put(FIRST, WHOLE.to_sparse()), "'conv1.weight' is sparse"),
    (
        put(FIRST, torch.quantize_per_tensor(WHOLE, 0.1, 0, torch.qint8)),
        "'conv1.weight' is sparse, nested or quantised",
    ),
    (put(FIRST, torch.tensor(1.0)), "4 dimensions, each larger than 0"),
    (put(FIRST, torch.zeros(4)), "got the shape [4]"),
    (put(FIRST, torch.zeros(0, 1, 3, 3)), "got the shape [0, 1, 3, 3]"),
    (put(FIRST, torch.zeros(4, 1, 5, 5)), "instead of [4, 1, 3, 3]"),
    (put(FIRST, torch.zeros(400, 1, 3, 3)), "filterbanks"),
    (put(FIRST, torch.zeros(1).expand(10**6, 1, 3, 3)), "fewer values than"),
    (put(LAST, torch.zeros(1).expand(10**9, 320)), "fewer values than"),
    (put(LAST, torch.zeros(6)), "got the shape [6]"),
    (put(LAST, torch.zeros(6, 0)), "got the shape [6, 0]"),
    (put(LAST, torch.zeros(6, 3)), "filterbanks"),
    (put(LAST, torch.zeros(2, 10**6)), "filterbanks, which must be 1 to 1024"),
    (put(LAST, 5), "'seg_1.weight' is of type int"),
    (put(LAST, None), "'seg_1.weight' is of type NoneType"),
    (put(LAST, "x"), "'seg_1.weight' is of type str"),
    (put(LAST, [1.0, 2.0]), "'seg_1.weight' is of type list"),
    (put("more", {"deep": {"deeper": WHOLE}}), "'more' is of type"),
    (put("epoch", 3), "'epoch' is of type int"),
    (put(3, WHOLE), "got the key 3"),
    (put(None, WHOLE), "got the key None"),
    (put(("a", "b"), WHOLE), "got the key ('a', 'b')"),
    (put("", WHOLE), "unexpected"),
    (put("x" * 10**5, WHOLE), "unexpected"),
    (put("layer9.0.conv1.weight", WHOLE), "unexpected layer9.0.conv1.weight"),
    (lambda s: {k: v for k, v in s.items() if "bn1" not in k}, "missing"),
    (lambda s: {k.upper(): v for k, v in s.items()}, "lacks 'conv1.weight'"),
    (lambda s: {"state_dict": 5}, "'state_dict' is of type int"),
    (lambda s: {"model": {}}, "lacks 'conv1.weight'"),
    (lambda s: {}, "must be a state dict"),
    (lambda s: [s], "must be a state dict"),
    (lambda s: s[FIRST], "must be a state dict"),
    (lambda s: 5, "must be a state dict"),
    (lambda s: None, "must be a state dict"),
]


@pytest.mark.parametrize(
    ("change", "sentence"), TENSORS, ids=[said for _, said in TENSORS]
)
def test_odd_tensors_are_refused(state, refused, tmp_path, change, sentence):
    torch.save(change(state), tmp_path / "odd.pt")
    assert sentence in refused(tmp_path / "odd.pt")


class Call:
    """What calls something when it is unpickled carelessly."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(folder, data, **options):
    """A zip archive as torch writes them, of any bytes."""
    path = folder / "odd.pt"
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("odd/data.pkl", data)
        file.writestr("odd/version", "3\n")
    return path


FILES = {
    "empty": b"",
    "one byte": b"\x80",
    "text": b"a thesis",
    "pickle of nothing": pickle.dumps(None),
    "pickle without end": pickle.dumps({"a": 1})[:-1],
    "old pickle": pickle.dumps({"a": 1}, protocol=0),
    "deep pickle": b"\x80\x02" + b"]" * 10**5 + b"a" * 10**5 + b".",
    "odd codes": bytes(range(256)),
    "zip of nothing": b"PK\x05\x06" + b"\0" * 18,
    "zip without end": b"PK\x03\x04" + b"\0" * 100,
    "wave file": b"RIFF\x24\0\0\0WAVEfmt ",
    "tar": b"odd".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 300,
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoints_are_refused(refused, tmp_path, name):
    (tmp_path / "odd.pt").write_bytes(FILES[name])
    assert "odd.pt" in refused(tmp_path / "odd.pt")


def test_nothing_is_executed_and_no_unsafe_advice_is_given(refused, tmp_path):
    flag = tmp_path / "exploded"
    for function in (pathlib.Path.touch, os.mkdir, os.system):
        bomb = Call(function, str(flag))
        for legacy in (False, True):
            torch.save(
                {"x": bomb},
                tmp_path / "bomb.pt",
                _use_new_zipfile_serialization=not legacy,
            )
            said = refused(tmp_path / "bomb.pt")
            assert "contains more than tensors (it would call" in said
        (tmp_path / "bomb.pt").write_bytes(pickle.dumps(bomb))
        refused(tmp_path / "bomb.pt")
        refused(archive(tmp_path, pickle.dumps(bomb)))
    assert not flag.exists()


def test_what_unpacks_to_far_more_than_its_file_is_refused(refused, tmp_path):
    zeros = b"\0" * (16 * 2**20)
    path = archive(tmp_path, zeros, compression=zipfile.ZIP_DEFLATED)
    assert "unpacks to 16777218 bytes" in refused(path)


def test_cut_files_are_refused_at_every_length(state, refused, tmp_path):
    stream = io.BytesIO()
    torch.save(state, stream)
    for part in (1, 10, 100, 500, 900, 999):
        whole = stream.getvalue()
        (tmp_path / "cut.pt").write_bytes(whole[: len(whole) * part // 1000])
        assert "cut.pt" in refused(tmp_path / "cut.pt")


def test_what_is_no_plain_file_is_said(refused, tmp_path):
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    assert "must be a file" in refused(tmp_path / "folder.pt")
    assert "must be a file" in refused(tmp_path / "pipe.pt")
    assert "loop.pt" in refused(tmp_path / "loop.pt")
    assert "does not exist" in refused(tmp_path / "none.pt")
    assert "none" in refused(tmp_path / "folder.pt" / "none" / ("x" * 300))


CONFIGS = [
    ("", "is empty"),
    ("- a\n", "has a list"),
    ("model_args: {}\n", "lacks the key 'model'"),
    ("model: 5\n", "`model` of"),
    ("model: [ResNet1]\n", "`model` of"),
    ("model: {a: 1}\n", "`model` of"),
    ("model: null\n", "`model` of"),
    ("model: ResNet9\n", "got 'ResNet9'"),
    ("model: ResNet1\nmodel_args: 5\n", "`model_args` of"),
    ("model: ResNet1\nmodel_args: [a]\n", "`model_args` of"),
    ("model: ResNet1\nmodel_args: {pooling_func: MEAN}\n", "got 'MEAN'"),
    ("model: ResNet1\nmodel_args: {pooling_func: [TSTP]}\n", "`pooling_func`"),
    ("model: ResNet1\nmodel_args: {feat_dim: many}\n", "`input_size` must be"),
    ("model: ResNet1\nmodel_args: {feat_dim: -80}\n", "`input_size` must be"),
    ("model: ResNet1\nmodel_args: {feat_dim: 1.5}\n", "`input_size` must be"),
    ("model: ResNet1\nmodel_args: &a {b: *a}\n", "form a loop"),
    ("model: [\n", "is not valid YAML"),
    ("model: !!python/object/apply:os.mkdir [exploded]\n", "`model` of"),
]


@pytest.mark.parametrize(
    ("text", "sentence"), CONFIGS, ids=[said for _, said in CONFIGS]
)
def test_odd_configs_are_refused(
    state, refused, tmp_path, monkeypatch, text, sentence
):
    monkeypatch.chdir(tmp_path)
    torch.save(state, tmp_path / "good.pt")
    (tmp_path / "config.yaml").write_text(text)
    options = [f"--config={tmp_path / 'config.yaml'}"]
    assert sentence in refused(tmp_path / "good.pt", *options, named=False)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--input_size=-1", "`input_size` must be an integer from 1 to 1024"),
        ("--input_size=0", "got 0"),
        ("--input_size=100000000000", "got 100000000000"),
        ("--input_size=many", "invalid int value"),
        ("--input=80", "unrecognized arguments"),
        ("--family=kaldi", "invalid choice"),
    ],
)
def test_odd_options_are_refused(state, refused, tmp_path, option, sentence):
    torch.save(state, tmp_path / "good.pt")
    assert sentence in refused(tmp_path / "good.pt", option)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {**s, "projection.weight": torch.zeros(5, 6)},
        lambda s: {k: v.half() if v.ndim else v for k, v in s.items()},
        lambda s: {k: v.bfloat16() if v.ndim else v for k, v in s.items()},
        lambda s: dict(reversed(s.items())),
        lambda s: {k: v.requires_grad_(bool(v.ndim)) for k, v in s.items()},
    ],
)
def test_what_can_be_understood_is_converted(state, tmp_path, change):
    torch.save(change(state), tmp_path / "model.pt")
    folder = published_checkpoints.export_checkpoint(
        "wespeaker", "ResNet1", tmp_path / "model.pt", tmp_path / "out"
    )
    weights = torch.load(folder / "embedding_model.ckpt", weights_only=True)
    torch.testing.assert_close(
        weights["embedding.bias"], state["seg_1.bias"], rtol=0, atol=0.01
    )
