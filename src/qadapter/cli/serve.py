"""`qadapter serve`: adapters of one base behind an API like OpenAI's."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MissingExtraError
from .decoding import add_loading_flags, count, positive

if TYPE_CHECKING:
    from ..serve.adapters import ServedModel
    from ..serve.api.gate import GateRules
    from ..serve.api.service import ServiceLimits

logger = logging.getLogger(__name__)

KEY_VARIABLE = "QADAPTER_API_KEY"


def add_parser(subparsers: Any) -> None:
    """Register `serve`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser(
        "serve",
        help="an API like OpenAI's, and a page to try it",
        description="Serve adapters of one base model. Requests name an adapter as their model, and may turn its dial "
        "(strength); the base is served under its own name.",
    )
    add_serving_flags(parser)
    parser.set_defaults(run=run)


def add_serving_flags(parser: argparse.ArgumentParser) -> None:
    """What is served, to whom, and the limits."""
    parser.add_argument("adapters", nargs="+", metavar="[NAME=]DIR", help="a folder that `qadapter train` wrote")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than loopback need an API key"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--api-key-file", metavar="FILE", help=f"file with the key that clients must send (or set {KEY_VARIABLE})"
    )
    parser.add_argument(
        "--cors-origin", action="append", default=[], type=_origin, metavar="ORIGIN",
        help="another page that may ask, such as http://localhost:3000, or * for all; repeatable",
    )  # fmt: skip
    parser.add_argument("--log-prompts", action="store_true", help="write prompts to the log")
    limits = parser.add_argument_group("limits")
    for flag, default, meaning in (
        ("--max-batch", 8, "answers that are written at the same time"),
        ("--max-queue", 64, "prompts that wait; more are refused with 429"),
        ("--max-context", None, "tokens of prompt and answer (default: the model's positions)"),
        ("--max-tokens", 4096, "tokens of an answer"),
        ("--max-n", 8, "answers to one prompt"),
        ("--max-body", 1 << 20, "bytes of a request"),
        ("--prefill-chunk", 256, "prompt tokens that are read between two steps of those who already decode"),
    ):
        shown = "" if default is None else " (default: %(default)s)"
        limits.add_argument(flag, type=count, default=default, metavar="N", help=meaning + shown)
    limits.add_argument(
        "--request-timeout", type=positive, default=600.0, metavar="S", help="seconds for an answer (default: 600)"
    )
    limits.add_argument(
        "--grace", type=positive, default=30.0, metavar="S", help="seconds for running answers at the end (default: 30)"
    )
    add_loading_flags(parser)


def run(args: argparse.Namespace, when_listening: Callable[[str], None] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        args: of `add_serving_flags`.
        when_listening: told the page's address, once connections to it are taken.

    Returns:
        0.

    Raises:
        QAdapterError: adapters, a key or an address that cannot be used.
        MissingExtraError: FastAPI or uvicorn is not installed.
    """
    require_extra()
    bound_kernel_cache()
    rules = gate_rules(args.host, args.api_key_file)
    from ..serve.api.server import bind
    from .quiet import quiet_libraries

    quiet_libraries()
    with bind(args.host, args.port) as socket:  # an address that is taken shows before the model is loaded
        served = load(args)
        _serve(args, served, rules, socket, when_listening)
    return 0


def bound_kernel_cache() -> None:
    """Keep fewer compiled products of a CPU, before the first of them is made.

    oneDNN keeps 1,024 of them, one for each shape, and requests of all lengths joining and leaving make ever new ones:
    memory grew over thousands of requests, to twice what a small model takes. The shapes of decode steps, which
    return, are fewer than 128.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def load(args: argparse.Namespace) -> ServedModel:
    """Load the adapters, in a thread that has ended when this returns.

    A thread that has let torch use several cores keeps OpenMP's helpers for itself as long as it lives. Where the
    helpers are more than the cores, none of them waits awake for its next piece of work, and a decode step has hundreds
    of those: the engine, whose thread is another one, took up to 1.7 times as long per step.

    Raises:
        QAdapterError: adapters that cannot be used.
    """
    from ..model import decoding_device, machine_dtype
    from ..serve.adapters import load_adapters

    with ThreadPoolExecutor(max_workers=1) as thread:
        dtype = args.dtype or machine_dtype("auto", decoding_device())
        given = {"dtype": dtype, "load_in": args.load_in, "trust_remote_code": args.trust_remote_code}
        return thread.submit(load_adapters, args.adapters, args.base, **given).result()


def _serve(
    args: argparse.Namespace,
    served: ServedModel,
    rules: GateRules,
    socket: Any,
    when_listening: Callable[[str], None] | None,
) -> None:
    from ..generate import stop_ids
    from ..serve.api.app import create_app
    from ..serve.api.server import GracefulServer, listen
    from ..serve.api.service import Service
    from ..serve.engine import Engine, EngineLimits

    engine = Engine(
        served.model,
        served.tokenizer,
        stop_ids(served.model, served.tokenizer),
        EngineLimits(args.max_batch, args.max_queue, args.prefill_chunk),
    )
    service = Service(served, engine, service_limits(args, served), log_prompts=args.log_prompts)
    app = create_app(service, rules, args.cors_origin)
    listen(socket)
    host, port = socket.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logger.info("serving %s", ", ".join(served.policies))
    logger.info("http://%s:%d/ (API: http://%s:%d/v1)", shown, port, shown, port)
    if when_listening is not None:
        when_listening(f"http://{shown}:{port}/")
    GracefulServer(app, engine, args.grace).run(sockets=[socket])


def service_limits(args: argparse.Namespace, served: ServedModel) -> ServiceLimits:
    """What the flags allow a request to ask for.

    Raises:
        ConfigError: a context beyond the model's positions, or none where the model names none.
    """
    from ..serve.api.service import ServiceLimits

    positions = served.model.max_positions
    context = args.max_context or positions
    if context is None:
        raise ConfigError("the model names no number of positions.", hint="give --max-context")
    if positions is not None and context > positions:
        raise ConfigError(f"--max-context {context} is more than the model's {positions} positions.")
    return ServiceLimits(context, args.max_tokens, args.max_n, args.max_body, args.request_timeout)


def gate_rules(host: str, key_file: str | None) -> GateRules:
    """Who is let in.

    Raises:
        ConfigError: an address that others can reach, without a key; an empty or unreadable key.
    """
    from ..serve.api.gate import GateRules

    key = _api_key(key_file)
    if _is_loopback(host):
        return GateRules(key, hosts=None if key else {"localhost", "127.0.0.1", "[::1]", host})
    if key is None:
        raise ConfigError(
            f"--host {host} lets others in, and there is no API key.",
            hint=f"set {KEY_VARIABLE} or give --api-key-file; or listen on 127.0.0.1",
        )
    return GateRules(key)


def require_extra() -> None:
    """Raise `MissingExtraError` where the packages of the extra `serve` are not there."""
    for package in ("fastapi", "uvicorn"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError(package, "serve", "qadapter serve") from None


def _api_key(file: str | None) -> str | None:
    if file is None:
        key, source = os.environ.get(KEY_VARIABLE), KEY_VARIABLE
    else:
        try:
            key, source = Path(file).read_text(encoding="utf-8"), f"--api-key-file {file}"
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--api-key-file {file} cannot be read: {error}") from error
    if key is None:
        return None
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{source} must hold a key of printable ASCII characters, and it does not.")
    return key


def _origin(text: str) -> str:
    """As a browser writes the origin of a page: it would not match otherwise, and nothing would say why."""
    if text == "*":
        return text
    page = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]+)/?", text.lower())
    if page is None:
        raise argparse.ArgumentTypeError(f"must be scheme://host[:port], or *, got {text!r}")
    scheme, host = page.groups()
    return f"{scheme}://{host.removesuffix({'http': ':80', 'https': ':443'}.get(scheme, ''))}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
