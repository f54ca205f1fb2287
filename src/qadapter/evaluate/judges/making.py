"""From arguments to judges."""

from __future__ import annotations

from pathlib import Path

from ...model.loading import cache_root
from .api_key import ApiKey
from .arguments import JudgeArguments
from .chat_client import ChatClient
from .checker import Checker
from .endpoint import EndpointJudge
from .judge import Judge
from .judgment_cache import JudgmentCache
from .named_function import load_function
from .reward_model import load_reward_model


def make_judges(args: JudgeArguments) -> list[Judge]:
    """Load the judges that the arguments name: checkers, reward models, the endpoint. No request is sent yet.

    Raises:
        ConfigError: one that cannot be used; what is quick to check is checked first.
    """
    checkers = [Checker(load_function(name), name) for name in args.checker]
    endpoint = [] if args.judge_endpoint is None else [_endpoint(args, args.judge_endpoint, str(args.judge_model))]
    rewards = [load_reward_model(name, batch_size=args.reward_batch_size) for name in args.reward_model]
    return [*checkers, *rewards, *endpoint]


def default_cache() -> Path:
    """Where a server's judgments are kept unless told otherwise."""
    return cache_root() / "judgments.jsonl"


def _endpoint(args: JudgeArguments, url: str, model: str) -> EndpointJudge:
    client = ChatClient(url, ApiKey(args.judge_api_key_env), timeout=args.judge_timeout, retries=args.judge_retries)
    return EndpointJudge(
        client,
        model,
        JudgmentCache(Path(args.judge_cache) if args.judge_cache else default_cache()),
        request=args.request_fields,
        concurrency=args.judge_concurrency,
        price_in=args.judge_price_in,
        price_out=args.judge_price_out,
    )
