"""`qadapter serve` as a process: it answers, ends cleanly, and says what is wrong before it loads anything."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from qadapter.cli import serve
from qadapter.cli.main import main
from qadapter.errors import ConfigError
from qadapter.serve import adapters
from qadapter.serve.adapters import ServedModel
from qadapter.serve.api import server


def test_it_serves_and_ends_on_sigterm(trained: Path) -> None:
    command = [sys.executable, "-m", "qadapter", "serve", f"mine={trained}", "--port", "0", "--dtype", "float32"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if line.startswith("http://"):
                break
        url = lines[-1].split("/ ")[0]
        assert url.startswith("http://127.0.0.1:"), lines
        with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as response:
            assert [model["id"] for model in json.load(response)["data"]] == ["mine", "tiny-base0"]
        body = json.dumps({"model": "mine", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}).encode()
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert json.load(response)["usage"]["completion_tokens"] <= 3
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()


def test_the_thread_that_loads_has_ended_when_the_engine_begins(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it lives, it keeps processor threads that the engine's then have to share the cores with."""
    loading: list[threading.Thread] = []
    load_adapters = adapters.load_adapters

    def remembering(*args: Any, **kwargs: Any) -> ServedModel:
        loading.append(threading.current_thread())
        return load_adapters(*args, **kwargs)

    monkeypatch.setattr(adapters, "load_adapters", remembering)
    served = serve.load(
        argparse.Namespace(adapters=[str(trained)], base=None, dtype="float32", load_in=None, trust_remote_code=False)
    )
    assert len(served.policies) == 2
    (thread,) = loading
    assert not thread.is_alive()


def test_the_kernel_cache_is_bounded_unless_the_user_has_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment, bound in (({}, "128"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}, "7")):
        monkeypatch.setattr(serve.os, "environ", environment)
        serve.bound_kernel_cache()
        assert environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == bound


def test_connections_are_refused_until_the_model_is_there(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks whether the port is open asks whether there is a server."""
    parser = argparse.ArgumentParser()
    serve.add_serving_flags(parser)
    bound: list[tuple[str, int]] = []
    bind, load = server.bind, serve.load

    def remembering(host: str, port: int) -> socket.socket:
        at = bind(host, port)
        bound.append(at.getsockname())
        return at

    def asked_while_loading(args: argparse.Namespace) -> ServedModel:
        served = load(args)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(bound[0], timeout=10)
        return served

    def asked_when_listening(url: str) -> None:
        socket.create_connection(bound[0], timeout=10).close()
        raise ConfigError(f"{url} took a connection")

    monkeypatch.setattr(server, "bind", remembering)
    monkeypatch.setattr(serve, "load", asked_while_loading)
    with pytest.raises(ConfigError, match="took a connection"):
        serve.run(parser.parse_args([str(trained), "--port", "0", "--dtype", "float32"]), asked_when_listening)


def test_a_taken_port_shows_before_and_after_the_model_was_loaded() -> None:
    host = "127.0.0.1"
    with server.bind(host, 0) as early:
        port = early.getsockname()[1]
        with server.bind(host, port) as late:  # neither listens yet
            server.listen(early)
            with pytest.raises(ConfigError, match=f"cannot listen on {host}, port {port}: "):
                server.listen(late)
        with pytest.raises(ConfigError, match=f"cannot listen on {host}, port {port}: "):
            server.bind(host, port)
        socket.create_connection((host, port), timeout=10).close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["DIR", "DIR"], "two adapters are called 'out'"),
        (["=DIR"], "an adapter is given as NAME=DIR"),
        (["nowhere"], "is not a Q-Adapter artifact"),
        (["DIR", "--host", "0.0.0.0"], "there is no API key"),
        (["DIR", "--host", "192.0.2.1", "--api-key-file", "KEY"], "cannot listen on 192.0.2.1"),
        (["DIR", "--api-key-file", "missing"], "cannot be read"),
        (["DIR", "--api-key-file", "EMPTY"], "must hold a key"),
        (["DIR", "--max-context", "513"], "more than the model's 512 positions"),
        (["DIR", "--max-batch", "0"], "at least 1"),
        (["DIR", "--port", "99999"], "cannot listen"),
        (["DIR", "--cors-origin", "localhost:3000"], "must be scheme://host[:port], or *, got 'localhost:3000'"),
        (["DIR", "--cors-origin", "http://localhost:3000/page"], "must be scheme://host[:port]"),
    ],
)
def test_errors(
    flags: list[str], said: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "empty").write_text("\n")
    words = {"DIR": str(trained), "=DIR": f"={trained}", "KEY": str(tmp_path / "key"), "EMPTY": str(tmp_path / "empty")}
    port = [] if "--port" in flags else ["--port", "0"]
    assert main(["serve", *[words.get(flag, flag) for flag in flags], *port]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("http://localhost:3000/", "http://localhost:3000"),
        ("https://Page.Example:443", "https://page.example"),
        ("http://page.example:8080", "http://page.example:8080"),
        ("*", "*"),
    ],
)
def test_origins_are_as_browsers_write_them(given: str, origin: str) -> None:
    parser = argparse.ArgumentParser()
    serve.add_serving_flags(parser)
    assert parser.parse_args(["DIR", "--cors-origin", given]).cors_origin == [origin]


def test_who_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    assert serve.gate_rules("127.0.0.1", None).api_key is None
    assert "localhost" in serve.gate_rules("::1", None).hosts
    monkeypatch.setenv(serve.KEY_VARIABLE, "secret")
    assert serve.gate_rules("0.0.0.0", None).api_key == "secret"
    assert serve.gate_rules("0.0.0.0", None).hosts is None
    monkeypatch.setenv(serve.KEY_VARIABLE, "not printable: \x07")
    with pytest.raises(ConfigError, match="printable ASCII"):
        serve.gate_rules("0.0.0.0", None)


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", str(trained)]) == 2
    assert "pip install -e '.[serve]'" in capsys.readouterr().err
