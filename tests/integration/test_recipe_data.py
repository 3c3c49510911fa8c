"""The recipe on shards, lists and dynamic batches."""

import pathlib

from recipe_runs import train


def test_training_from_shards_ends_with_the_weights_of_files(
    recipe, corpus, trained, tmp_path
):
    folder, _ = trained
    options = {"shards": tmp_path / "shards"}
    # the same utterances by a list, so that the manifests are the same
    lines = []
    for path in sorted(pathlib.Path(corpus).rglob("wav/*/*/*.*")):
        lines.append(f"{path.parts[-3]} {path.relative_to(corpus)}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    options["file_list"] = tmp_path / "list.txt"
    done = train(recipe, corpus, tmp_path / "run", **options)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "shards").glob("*.tar"))
    for name in ("embedding_model.ckpt", "classifier.ckpt"):
        one, other = (
            (where / "pretrained" / name).read_bytes()
            for where in (folder, tmp_path / "run")
        )
        assert one == other, name


def test_dynamic_batches_with_every_augmentation_train(
    recipe, corpus, tmp_path
):
    some = next(pathlib.Path(corpus).glob("wav/*"))
    done = train(
        recipe,
        corpus,
        tmp_path / "run",
        yaml="resnet_aam_dynamic.yaml",
        number_of_epochs=1,
        sentence_len=1.2,
        sampler="{batch_seconds: 8, multiple_of: 2, buckets: 3}",
        noise_folder=some,
        rir_folder=some,
        augment="{in_batches: True}",
    )
    assert done.returncode == 0, done.stderr
    assert "train loss" in (tmp_path / "run" / "train_log.txt").read_text()
