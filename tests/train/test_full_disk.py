"""A full disk costs nothing of what was written before, and the error says what it was."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import make_base
from safetensors import SafetensorError
from train.test_trainer import arguments, pairs

from qadapter import QAdapterForCausalLM, QAdapterTrainer
from qadapter.cli import run_folder
from qadapter.cli.main import main
from qadapter.data.whole_file import write_whole
from qadapter.errors import QAdapterError
from qadapter.train.callbacks import MetricsFile

Usage = namedtuple("Usage", "total used free")


def test_a_file_that_cannot_be_written_whole_is_as_it_was(
    tmp_path: Path, on_a_full_disk: Callable[[Path], None]
) -> None:
    path = tmp_path / "file.txt"
    write_whole(path, "one")
    on_a_full_disk(path)
    with pytest.raises(OSError, match=r"No space left on device: .*file\.txt'") as caught:
        write_whole(path, "two")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_behind_a_link_is_written_and_the_link_is_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "file.txt", tmp_path / "link.txt"
    link.symlink_to(path)
    for text in ("one", "two"):
        write_whole(link, text)
        assert path.read_text() == text
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_what_is_no_file_is_written_as_it_is(tmp_path: Path, full_device: Path) -> None:
    """`--output /dev/stdout`, say: nothing is renamed over a device."""
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_whole(link, "one")
    assert Path("/dev/null").is_char_device()
    link.unlink()
    link.symlink_to(full_device)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(link, "one")
    assert full_device.is_char_device()


def test_a_resumed_run_keeps_its_arguments_and_its_metrics(
    tmp_path: Path, tokenizer, on_a_full_disk: Callable[[Path], None]
) -> None:
    run_folder.save_run_config(tmp_path, {"seed": 1})
    on_a_full_disk(tmp_path / "config.yaml")
    with pytest.raises(OSError, match="No space left"):
        run_folder.save_run_config(tmp_path, {"seed": 1})
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 1}

    trainer = QAdapterTrainer(make_base(), arguments(tmp_path), train_dataset=pairs(4), processing_class=tokenizer)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n')
    on_a_full_disk(metrics)
    trainer.state.global_step = 1
    with pytest.raises(OSError, match="No space left"):
        MetricsFile().on_train_begin(trainer.args, trainer.state, trainer.control)
    assert metrics.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["adapter", "optimizer"])
def test_a_checkpoint_that_does_not_fit(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise error

    args = arguments(tmp_path, save_strategy="steps", save_steps=1)
    trainer = QAdapterTrainer(make_base(), args, train_dataset=pairs(4), processing_class=tokenizer)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**30, 2**30, 0))
    owner, name = (QAdapterForCausalLM, "save_pretrained") if where == "adapter" else (torch, "save")
    monkeypatch.setattr(owner, name, full)
    what = rf"{tmp_path}/checkpoint-1 cannot be written: too little room on the disk \(0 MiB are free\)"
    said = rf"{what}[\s\S]*{tmp_path} --resume"
    with pytest.raises(QAdapterError, match=said):
        trainer.train()


def test_another_failure_of_torch_keeps_its_own_error(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . file not found")

    args = arguments(tmp_path, save_strategy="steps", save_steps=1)
    trainer = QAdapterTrainer(make_base(), args, train_dataset=pairs(4), processing_class=tokenizer)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, 2**40))
    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="file not found"):
        trainer.train()


def test_a_full_disk_without_a_file_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_words: list[str]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qadapter.cli.main._run", full)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "error: No space left on device\n"
