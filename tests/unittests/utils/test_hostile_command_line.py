"""Command lines of all kinds: understood, or refused in one sentence."""

import importlib
import pathlib

import pytest

TRAIN = "hparams/resnet_csphereface2_small.yaml"
VERIFY = "hparams/verification_resnet_small.yaml"


@pytest.fixture(scope="module")
def scripts(request):
    """Both scripts, imported as they import each other."""
    folder = request.config.rootpath / "recipes" / "VoxCeleb" / "SpeakerRec"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield (
            {
                TRAIN: importlib.import_module("train_speaker_embeddings"),
                VERIFY: importlib.import_module("speaker_verification_cosine"),
            },
            folder,
        )


@pytest.fixture
def start(scripts, tmp_path, monkeypatch, capsys):
    """Starts a script up to its preparation: its values and what it said."""

    def started(recipe, *argv, named=True):
        modules, folder = scripts
        seen = {}

        def stop(hparams, *_):
            seen.update(hparams)
            raise ValueError("stopped by the test")

        monkeypatch.setattr(modules[recipe], "prepare", stop)
        monkeypatch.setattr(modules[VERIFY], "check", stop)
        monkeypatch.chdir(tmp_path)
        yaml = [str(folder / recipe)] if named else []
        with pytest.raises(SystemExit) as left:
            modules[recipe].main([*yaml, *argv])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return seen, str(left.value.code), said.out + said.err

    return started


DATA = "--data_folder=/data/a"

# What is wrong, and a part of what is said of it
REFUSED = [
    (TRAIN, ["--batch_size=-3"], "`batch_size` must be an integer from 1"),
    (TRAIN, ["--batch_size=abc"], "got 'abc'"),
    (TRAIN, ["--batch_size=2.5"], "got 2.5"),
    (TRAIN, ["--batch_size=null"], "got None"),
    (TRAIN, ["--batch_size=[8]"], "`batch_size`"),
    (TRAIN, ["--batch_size="], "--batch_size= has no value"),
    (TRAIN, ["--batch_size"], "--batch_size has no value"),
    (TRAIN, ["--batch_size=1e400"], "`batch_size`"),
    (TRAIN, ["--batch_size=8", "--batch_size=9"], "--batch_size twice"),
    (TRAIN, ["--channels=foo"], "`channels` must be a number above 0"),
    (
        TRAIN,
        ["--weight_decay=inf"],
        "`weight_decay` must be a number of 0 or more",
    ),
    (
        TRAIN,
        ["--weight_decay=.inf"],
        "`weight_decay` must be a number of 0 or more",
    ),
    (TRAIN, ["--dev_speakers=2.5"], "`dev_speakers` must be an integer"),
    (TRAIN, ["--label_noise=5"], "{kind: symmetric, rate: 0.3}"),
    (TRAIN, ["--label_noise={rate: 7}"], "rate is a number from 0 to 1"),
    (TRAIN, ["--dev_label_noise={rate: 7}"], "rate is a number from 0 to 1"),
    (TRAIN, ["--label_noise={rate: 0.1"], "--label_noise is not valid YAML"),
    (TRAIN, ["--label_filter=5"], "{kind: ORGate, top_k: 10}"),
    (TRAIN, ["--number_of_epochs=0"], "`number_of_epochs` must be an integer"),
    (TRAIN, ["--sentence_len=nan"], "`sentence_len` must be a number above 0"),
    (TRAIN, ["--precision=fp12"], "`precision` must be 'fp32' or 'fp16'"),
    (TRAIN, ["--average_checkpoints=0"], "`average_checkpoints`"),
    (TRAIN, ["--speeds=[]"], "`speeds` must be a list of one or more"),
    (TRAIN, ["--speeds=[1.0, zero]"], "`speeds`"),
    (TRAIN, ["--speeds={a: 1}"], "`speeds`"),
    (TRAIN, ["--seed=-1"], "`seed` must be an integer from 0 to 4294967295"),
    (TRAIN, ["--seed=" + "9" * 5000], "`seed`"),
    (TRAIN, ["--max_unreadable=5"], "pass shares, not percent"),
    (TRAIN, ["--skip_prep=maybe"], "`skip_prep` must be True or False"),
    (TRAIN, ["--train_dataloader_opts=null"], "`train_dataloader_opts`"),
    (
        TRAIN,
        ["--train_dataloader_opts={num_workers: many}"],
        "num_workers is an integer from 0",
    ),
    (TRAIN, ["--loss=5"], "`loss` must be a block"),
    (TRAIN, ["--loss={margin: wide}"], "`loss.margin` must be a num"),
    (TRAIN, ["--loss={scale: wide}"], "`loss.scale` must be a number"),
    (TRAIN, ["--output_folder= "], "--output_folder= has no value"),
    (TRAIN, ["--start_from={a: 1}"], "`start_from` must be a path"),
    (TRAIN, ["--device=cuda:99"], "pass --device=cpu"),
    (TRAIN, ["--device=meta"], "`device` must be cpu"),
    (TRAIN, ["--device=gpu"], "`device` must be cpu"),
    (TRAIN, ["--device"], "--device needs a value"),
    (TRAIN, ["--devise=cpu"], "key 'devise'; did you mean 'device'"),
    (TRAIN, ["--epochs=3"], "'frozen_epochs' or 'number_of_epochs' or"),
    (TRAIN, ["--lr=0.1"], "did you mean 'initial_lr' or 'final_lr' or"),
    (TRAIN, ["--learning-rate=0.1"], "did you mean 'initial_lr' or"),
    (TRAIN, ["--num_workers=2"], "'num_workers' in 'train_dataloader_opts'?"),
    (TRAIN, ["--debug_epoch=3"], "did you mean 'debug_epochs'"),
    (TRAIN, ["--prec=bf16"], "unknown key 'prec'; did you mean 'precision'"),
    (TRAIN, ["--batchsize=3"], "did you mean 'batch_size'"),
    (TRAIN, ["--data-folder=/x"], "did you mean 'data_folder'"),
    (TRAIN, ["-c", "x"], "unknown option '-c'"),
    (TRAIN, ["-batch_size=3"], "unknown option '-batch_size=3'"),
    (TRAIN, ["--"], "unknown option '--'"),
    (TRAIN, ["--=3"], "unknown option '--=3'"),
    (TRAIN, ["--seed: 3"], "unknown key 'seed: 3'"),
    (TRAIN, ["other.yaml"], "must name one recipe"),
    (TRAIN, ["--noprogressbar", "True"], "must name one recipe"),
    (TRAIN, ["--debug_batches=none"], "`debug_batches` must be an integer"),
    (TRAIN, ["--max_grad_norm=much"], "`max_grad_norm` must be a number"),
    (TRAIN, ["--data_folder=/data/\udcff"], "must be UTF-8"),
    (TRAIN, ["--data_folder=[/a, {b: 1}]"], "`data_folder` must be a path"),
    (VERIFY, ["--p_targets=0"], "pass fractions, not percent"),
    (VERIFY, ["--confidence=95"], "got 95; pass fractions"),
    (VERIFY, ["--scorings=[]"], "`scorings` must be a list of one or more"),
    (
        VERIFY,
        ["--num_workers=-1"],
        "`num_workers` must be an integer from 0 to",
    ),
    (VERIFY, ["--num_workers=two"], "got 'two'"),
    (VERIFY, ["--top_n=2.5"], "`top_n` must be an integer of 2 or more"),
    (VERIFY, ["--batch_seconds=0"], "`batch_seconds` must be a number above 0"),
    (VERIFY, ["--score_matrices=7"], "`score_matrices` must be True or False"),
]


@pytest.mark.parametrize(
    ("recipe", "argv", "sentence"), REFUSED, ids=lambda x: str(x)[:40]
)
def test_refused_in_a_sentence_before_anything_is_written(
    start, tmp_path, recipe, argv, sentence
):
    seen, code, _ = start(
        recipe, *argv, *([] if "data_f" in argv[0] else [DATA])
    )
    assert code.startswith("error: "), code
    assert sentence in code, code
    assert code.count("\n") == 0, code
    assert not seen
    assert not list(tmp_path.iterdir())


# What arrives, and as what
TAKEN = [
    (TRAIN, ["--data_folder=/data/a=b"], "data_folder", "/data/a=b"),
    (TRAIN, ["--data_folder=/d/a=b=c="], "data_folder", "/d/a=b=c="),
    (TRAIN, ["--data_folder", "/data/a b"], "data_folder", "/data/a b"),
    (TRAIN, ["--data_folder=/data/a: b"], "data_folder", "/data/a: b"),
    (TRAIN, ["--data_folder=/data/a #b"], "data_folder", "/data/a #b"),
    (TRAIN, ["--data_folder=--odd"], "data_folder", "--odd"),
    (TRAIN, ["--data_folder=-"], "data_folder", "-"),
    (TRAIN, ["--data_folder=*"], "data_folder", "*"),
    (TRAIN, ["--data_folder=@home"], "data_folder", "@home"),
    (TRAIN, ["--data_folder=007"], "data_folder", "007"),
    (TRAIN, ["--data_folder=2024-01-01"], "data_folder", "2024-01-01"),
    (TRAIN, ["--data_folder=2024-13-45"], "data_folder", "2024-13-45"),
    (TRAIN, ["--data_folder=1e5"], "data_folder", "1e5"),
    (TRAIN, ["--data_folder=yes"], "data_folder", "yes"),
    (TRAIN, ["--data_folder=C:\\data\\new"], "data_folder", "C:\\data\\new"),
    (TRAIN, ["--data_folder=/a\nb"], "data_folder", "/a\nb"),
    (TRAIN, ["--data_folder=/a\tb"], "data_folder", "/a\tb"),
    (TRAIN, ["--data_folder=/Straße/日本"], "data_folder", "/Straße/日本"),
    (TRAIN, ["--data_folder='/q: x'"], "data_folder", "/q: x"),
    (TRAIN, ["--data_folder=[/a, /b=c]"], "data_folder", ["/a", "/b=c"]),
    (TRAIN, [DATA, "--start_from=x=y"], "start_from", "x=y"),
    (TRAIN, [DATA, "--start_from=False"], "start_from", None),
    (TRAIN, [DATA, "--speeds=1.0"], "speeds", [1.0]),
    (TRAIN, [DATA, "--speeds=1.0,0.9"], "speeds", [1.0, 0.9]),
    (TRAIN, [DATA, "--batch_size=16.0"], "batch_size", 16),
    (TRAIN, [DATA, "--batch_size", "16"], "batch_size", 16),
    (TRAIN, [DATA, "--batch_size='16'"], "batch_size", 16),
    (TRAIN, [DATA, "--dev_batch_seconds='0.5'"], "dev_batch_seconds", 0.5),
    (TRAIN, [DATA, "--skip_prep"], "skip_prep", True),
    (TRAIN, [DATA, "--skip_prep=yes"], "skip_prep", True),
    (TRAIN, [DATA, "--skip_prep=no"], "skip_prep", False),
    (TRAIN, [DATA, "--shard_classifier=off"], "shard_classifier", False),
    (
        TRAIN,
        [DATA, '--label_noise={"kind": "clusters", "clusters": "a=b"}'],
        "label_noise",
        {"kind": "clusters", "clusters": "a=b"},
    ),
    (VERIFY, [DATA, "--calibrate=False"], "calibrate", []),
    (VERIFY, [DATA, "--calibrate=null"], "calibrate", []),
    (VERIFY, [DATA, "--calibrate=[]"], "calibrate", []),
    (VERIFY, [DATA, "--calibrate=cosine"], "calibrate", ["cosine"]),
    (VERIFY, [DATA, "--p_targets=0.01"], "p_targets", [0.01]),
    (VERIFY, [DATA, "--debug=False"], "scorings", None),
]


@pytest.mark.parametrize(
    ("recipe", "argv", "key", "value"), TAKEN, ids=lambda x: str(x)[:40]
)
def test_what_can_be_understood_arrives_whole(
    start, tmp_path, recipe, argv, key, value
):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    seen, code, _ = start(recipe, *argv)
    assert code == "error: stopped by the test"
    if key != "scorings":
        assert seen[key] == value
        assert type(seen[key]) is type(value) or isinstance(
            seen[key], type(value)
        )
    assert mine.read_text() == "mine"


def test_output_folder_with_an_equals_sign_is_made_so(start, tmp_path):
    seen, *_ = start(TRAIN, DATA, "--output_folder=x=y")
    assert seen["save_folder"] == "x=y/save"
    assert (tmp_path / "x=y").is_dir()


def test_a_seed_has_a_folder_of_its_own(start):
    seen, *_ = start(TRAIN, DATA, "--seed=7")
    assert seen["output_folder"] == "results/resnet_csphereface2_small/7"
    seen, *_ = start(VERIFY, DATA)
    name = "results/resnet_csphereface2_small/42/pretrained"
    assert seen["pretrained_folder"] == name


def test_a_folder_of_another_seed_is_not_resumed(start, tmp_path):
    saved = tmp_path / "out" / "save" / "CKPT+1" / "recipe.ckpt"
    saved.parent.mkdir(parents=True)
    saved.write_text("seed: 41\n")
    seen, code, _ = start(TRAIN, DATA, "--output_folder=out")
    assert "was trained with `seed` 41, but this run has 42" in code
    assert not seen  # the preparation, which draws from the seed, did not run
    _, code, _ = start(TRAIN, DATA, "--output_folder=out", "--seed=41")
    assert "seed" not in code


@pytest.mark.parametrize("recipe", [TRAIN, VERIFY])
def test_help_lists_the_recipes_and_their_keys(start, tmp_path, recipe):
    _, code, said = start(recipe, "--help", named=False)
    assert code == "0"
    assert recipe in said and "small.yaml\n" in said
    other = VERIFY if recipe == TRAIN else TRAIN
    assert f"  {other}\n" not in said
    assert said.startswith("usage: python ")
    _, code, said = start(recipe, "-h")
    assert code == "0"
    assert "data_folder: (must be given)    # several folders" in said
    assert "\nData\n" in said and "--device" in said
    if recipe == TRAIN:  # what is said below a heading stays below it
        assert "\nLearning rate\nThe published 0.1 is for" in said
    assert not list(tmp_path.iterdir())


def test_a_recipe_is_needed(start):
    _, code, _ = start(TRAIN, DATA, named=False)
    assert code.startswith("error: The command line must name one recipe")
    assert "--help" in code
    _, code, _ = start(TRAIN, str(pathlib.Path("none.yaml")), named=False)
    assert code.startswith("error: none.yaml does not exist")
