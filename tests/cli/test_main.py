from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qadapter import __version__
from qadapter.cli import main as main_module
from qadapter.cli.main import COMMANDS, build_parser, main

HEAVY = {"torch", "transformers", "peft", "datasets", "numpy", "yaml"}


def imported_by(code: str) -> set[str]:
    """The heavy modules in sys.modules after a fresh interpreter ran the code."""
    script = f"{code}\nimport sys; print('\\n' + ' '.join(sorted(m for m in {HEAVY!r} if m in sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import qadapter",
        "from qadapter.cli.main import main; main(['--help'])",
        "from qadapter.cli.main import main; main(['--version'])",
        "from qadapter.cli.main import main; main(['generate', '--help'])",
        "from qadapter.cli.main import main; main(['trian'])",
    ],
)
def test_what_needs_no_model_imports_no_heavy_library(code: str) -> None:
    assert imported_by(code) == set()


def test_help_starts_at_once() -> None:
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "qadapter", "--help"], capture_output=True, check=True)
    # Well under a second on a free machine; the tests may share theirs.
    assert time.monotonic() - start < 3


def test_help_lists_the_commands_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    places = [next(re.finditer(rf"\n    {name}\s", out)).start() for name in COMMANDS]
    assert places == sorted(places)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"qadapter {__version__}\n"


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], "unknown command: 'trian' (did you mean 'train'?)"),
        (["data", "chekc"], "unknown command: 'chekc' (did you mean 'check'?)"),
        (["chat", "DIR", "--strenght", "1"], "unknown flag --strenght (did you mean '--strength'?)"),
        (["chat", "DIR", "--max_new_token=3"], "unknown flag --max_new_token (did you mean '--max-new-tokens'?)"),
        (["generate", "DIR", "Hi", "--dtype", "bfloat"], "did you mean 'bfloat16'?"),
        (["generate", "DIR", "Hi", "--strength", "-1"], "must not be negative"),
        (["generate", "DIR", "Hi", "--top-p", "0.9"], "--top-p has no effect"),
        (["env", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_a_wrong_word_is_an_error_with_a_suggestion(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert expected in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "_run", interrupt)
    assert main(["env"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--output-dir", str(tmp_path / "file" / "demo")]) == 2
    assert capsys.readouterr().err.strip() == f"error: {tmp_path}/file/demo: Not a directory"


def test_an_error_of_the_system_without_a_file_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_words: list[str]) -> int:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(main_module, "_run", fails)
    with pytest.raises(ConnectionResetError):
        main(["train"])


def test_every_command_has_a_help_line() -> None:
    parser = build_parser()
    assert all(name in parser.format_help() for name in COMMANDS)
