from __future__ import annotations

from pathlib import Path

import pytest

from qadapter.errors import ConfigError
from qadapter.export.new_folder import new_folder
from qadapter.export.record import RECORD_FILE


def make(output: Path, content: str, *, overwrite: bool = False) -> None:
    with new_folder(output, overwrite) as folder:
        (folder / "file").write_text(content)
        (folder / RECORD_FILE).write_text("{}")


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with new_folder(output, overwrite=False) as folder:
        assert list(folder.iterdir()) == []
        assert not output.exists()
        (folder / "file").write_text("content")
    assert (output / "file").read_text() == "content"
    assert list(tmp_path.iterdir()) == [output]


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    make(tmp_path / "out", "content")
    assert (tmp_path / "out" / "file").read_text() == "content"


def test_of_a_link_what_it_points_at_is_made_or_replaced(tmp_path: Path) -> None:
    """Whoever links to another disk has no room on this one."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "disk" / "made")
    make(link, "first")
    make(link, "second", overwrite=True)
    assert link.is_symlink()
    assert (tmp_path / "disk" / "made" / "file").read_text() == "second"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["made"]


def test_an_earlier_export_is_replaced_only_if_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with new_folder(output, overwrite=False) as folder:
        (folder / "file").write_text("first")
        (folder / "adapter").mkdir()
        (folder / "adapter" / "more").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="already holds an export") as caught:
        make(output, "second")
    assert "--overwrite" in str(caught.value)
    with pytest.raises(ZeroDivisionError), new_folder(output, overwrite=True):
        raise ZeroDivisionError
    assert (output / "file").read_text() == "first"
    make(output, "second", overwrite=True)
    assert sorted(path.name for path in output.iterdir()) == ["file", RECORD_FILE]
    assert (output / "file").read_text() == "second"
    assert list(tmp_path.iterdir()) == [output]


def test_what_was_put_beside_an_export_is_never_removed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output, "first")
    (output / "notes").mkdir()
    (output / "notes" / "q4.gguf").write_text("of the user")
    said = r"does not list as written by the export: notes/q4\.gguf\."
    with pytest.raises(ConfigError, match=said) as caught, new_folder(output, overwrite=True):
        pytest.fail("it is refused before anything slow")
    assert "move them elsewhere" in str(caught.value)
    (output / "notes" / "q4.gguf").rename(tmp_path / "q4.gguf")

    def make_while_another_file_comes() -> None:
        with new_folder(output, overwrite=True) as folder:
            (folder / "file").write_text("second")
            (output / "late").write_text("of the user")

    with pytest.raises(ConfigError, match="late"):
        make_while_another_file_comes()
    assert (output / "file").read_text() == "first"
    assert (output / "late").read_text() == "of the user"


def test_an_export_of_before_there_was_a_list_is_not_removed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for record in ("{}", "[]", '{"files": 3}', "half"):
        output.mkdir(exist_ok=True)
        for name in "abcdefg":
            (output / name).write_text("first")
        (output / RECORD_FILE).write_text(record)
        with pytest.raises(ConfigError, match=r": a, b, c, d, e and 2 more\."):
            make(output, "second", overwrite=True)
        assert (output / "a").read_text() == "first"


def test_an_artifact_that_was_fetched_from_the_hub_is_no_export(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "qadapter_config.json").write_text("{}")
    (output / RECORD_FILE).write_text(f'{{"files": ["qadapter_config.json", "{RECORD_FILE}"]}}')
    with pytest.raises(ConfigError, match="holds other things"):
        make(output, "content", overwrite=True)


def test_nothing_but_an_export_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other things"):
        make(tmp_path / "out", "content", overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_a_mount_point_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "mounted")
    with pytest.raises(ConfigError, match="is a mount point"):
        make(tmp_path / "mounted", "content")
    make(tmp_path / "mounted" / "out", "content")


def test_a_file_and_a_missing_parent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        make(tmp_path / "file", "content")
    with pytest.raises(ConfigError, match="does not exist"):
        make(tmp_path / "no" / "out", "content")
