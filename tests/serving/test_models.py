"""Which models a folder holds. None of these can be loaded: what counts is where a saved_model.pb lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tf_toolkit.serving.errors import ModelError
from tf_toolkit.serving.models import find_models


def place(root: Path, *folders: str) -> None:
    for folder in folders:
        path = root / folder
        path.mkdir(parents=True)
        (path / "saved_model.pb").touch()


def found(root: Path) -> dict[str, list[int]]:
    return {name: list(model.versions) for name, model in find_models(root).items()}


def test_models_lie_at_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "model"
    place(root, "1", "b/7", "export/Servo/1", "export/Servo/2")
    assert found(root) == {"Servo": [1, 2], "b": [7], "model": [1]}


def test_they_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    place(tmp_path, "zebra/1", "ant/1", "bee/1")
    assert list(find_models(tmp_path)) == ["ant", "bee", "zebra"]


def test_leading_zeros_are_no_part_of_a_version(tmp_path: Path) -> None:
    place(tmp_path, "m/00000123", "m/0", "m/9")
    assert found(tmp_path) == {"m": [0, 9, 123]}


def test_two_folders_of_one_version(tmp_path: Path) -> None:
    place(tmp_path, "m/01", "m/1")
    with pytest.raises(ModelError, match=r"m/01 and .*m/1 are both version 1"):
        find_models(tmp_path)


def test_two_models_of_one_name(tmp_path: Path) -> None:
    place(tmp_path, "a/m/1", "b/m/1")
    with pytest.raises(ModelError, match=r"a/m and .*b/m are both a model named 'm'; rename one of them"):
        find_models(tmp_path)


@pytest.mark.parametrize("name", ["v1", "1a", "-1", "1.0", "latest", "٣", "9" * 19])
def test_what_is_no_version(tmp_path: Path, name: str) -> None:
    place(tmp_path, "m/1", f"m/{name}")
    assert found(tmp_path) == {"m": [1]}


def test_hidden_folders_hold_no_models(tmp_path: Path) -> None:
    place(tmp_path, "m/1", ".ipynb_checkpoints/m/2", "m/.00000111")
    assert found(tmp_path) == {"m": [1]}


def test_numbered_folders_without_a_model_are_told(tmp_path: Path) -> None:
    place(tmp_path, "m/1")
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "3").touch()
    assert find_models(tmp_path)["m"].empty == (tmp_path / "m" / "2",)


def test_a_model_inside_of_another(tmp_path: Path) -> None:
    place(tmp_path, "m/1", "m/1/assets.extra/inner/5")
    assert found(tmp_path) == {"inner": [5], "m": [1]}


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "model"
    place(root, "m/1")
    place(tmp_path, "elsewhere/n/4")
    (root / "a_link").symlink_to(tmp_path / "elsewhere")
    (root / "m" / "loop").symlink_to(root)
    (root / "m" / "2").symlink_to(root / "m" / "1")
    (root / "dangling").symlink_to(tmp_path / "nothing")
    assert found(root) == {"m": [1, 2], "n": [4]}


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    place(tmp_path, "store")
    version = tmp_path / "model" / "m" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").symlink_to(tmp_path / "store" / "saved_model.pb")
    assert found(tmp_path / "model") == {"m": [1]}


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("saved_model.pb", "Move saved_model.pb and what lies beside it into a folder such as {root}/1"),
        ("mine/saved_model.pb", "'mine' is no number: rename {root}/mine, such as to {root}/1"),
        ("model.keras", "{root}/model.keras is a Keras file: export it by model.export('1')"),
        ("weights.h5", "{root}/weights.h5 is a Keras file"),
        ("1/saved_model.pbtxt", "{root}/1/saved_model.pbtxt is in text format"),
        ("model.tar.gz", "{root}/model.tar.gz is to be unpacked first"),
        ("1/code/inference.py", "Have training save its model there"),
    ],
)
def test_where_there_is_none_the_message_helps(tmp_path: Path, file: str, remedy: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(ModelError) as raised:
        find_models(tmp_path)
    first, *tree = str(raised.value).splitlines()
    assert first.startswith("no SavedModel bundles found! A model is a folder MODEL/VERSION/saved_model.pb")
    assert remedy.format(root=tmp_path) in first
    assert tree[-1].strip() == Path(file).name


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the folder is empty"):
        find_models(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"/model: No such file or directory"):
        find_models(tmp_path / "model")


def test_a_long_list_of_files_is_cut(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"file{number:03d}").touch()
    with pytest.raises(ModelError) as raised:
        find_models(tmp_path)
    assert str(raised.value).splitlines()[-1] == "  ... and 60 more"
