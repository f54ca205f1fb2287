"""Who says what an answer is worth.

judge             what a judge and a verdict are
checker           a Python function of the answer
named_function    module:function → that function
reward_model      a sequence classifier with one output
endpoint          a language model behind an OpenAI-compatible server: better or worse than the base's answer?
pairwise_prompt   the question put to it, and the reading of its reply
judgment_cache    its judgments on disk
chat_client       requests and retries; http_post sends one, backoff says how long to wait
api_key           the key: read from the environment, shown nowhere
cost              what was asked of the server
agreement         how far two judges agree
arguments         all settings
making            arguments → judges
"""

from .agreement import Agreement, agreement
from .arguments import JudgeArguments
from .checker import Checker
from .judge import SAME_TEXT, Judge, Verdict, mean_score
from .making import make_judges

__all__ = [
    "SAME_TEXT",
    "Agreement",
    "Checker",
    "Judge",
    "JudgeArguments",
    "Verdict",
    "agreement",
    "make_judges",
    "mean_score",
]
