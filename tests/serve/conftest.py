"""A served model with two adapters, and an app around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_model import make_engine, save_tiny_artifacts, serving

from qadapter.serve.adapters import ServedModel, load_adapters


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    save_tiny_artifacts(folder)
    return folder


@pytest.fixture(scope="session")
def served(artifacts: Path) -> ServedModel:
    """`one`, `two` and `base` on one copy of the weights. Engines may follow each other on it."""
    return load_adapters([str(artifacts / "one"), f"two={artifacts / 'two'}"], dtype="float32")


@pytest.fixture(scope="module")
def api(served: ServedModel) -> Iterator[tuple[str, Any]]:
    """URL and service of a server on loopback."""
    pytest.importorskip("uvicorn")
    from qadapter.serve.api.app import create_app
    from qadapter.serve.api.service import Service, ServiceLimits

    engine = make_engine(served, max_batch=4, max_queue=32)
    service = Service(served, engine, ServiceLimits(max_context=200, max_tokens=64, max_choices=4, max_body=20_000))
    with serving(create_app(service), engine) as (url, _):
        yield url, service
