"""The reward that a Q-function implies: the inverse soft Bellman operator."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

ValueState = Literal["next", "same"]
VALUE_STATES: tuple[ValueState, ...] = get_args(ValueState)


def next_state_values(v_t: Tensor, lengths: Tensor, terminated: Tensor) -> Tensor:
    """Ṽ(s_{t+1}) for every token, with Ṽ(terminal) = 0.

    A response that ends with its end-of-turn token has reached the terminal state, whose value is zero. A response
    that was cut at the length limit has not: the value of the state after its last token is bootstrapped.

    Args:
        v_t: [responses, tokens + 1] Ṽ(s_t); column t is the state *before* token t, the column after a response's
            last token is the state it was left in.
        lengths: [responses] number of tokens of each response.
        terminated: [responses] bool, True where the response ended by itself.

    Returns:
        [responses, tokens] Ṽ(s_{t+1}); columns at and beyond a response's length are not meaningful.
    """
    v_tp1 = v_t[:, 1:]
    is_last = torch.arange(v_tp1.shape[1], device=v_t.device)[None, :] == (lengths - 1)[:, None]
    return v_tp1.masked_fill(is_last & terminated[:, None], 0.0)


def implied_rewards(q_t: Tensor, v_tp1: Tensor, *, gamma: float) -> Tensor:
    """r(s_t, a_t) = Q̂(s_t, a_t) − γ·Ṽ(s_{t+1}).

    Args:
        q_t: [responses, tokens] Q̂ of the taken tokens, reward units.
        v_tp1: [responses, tokens] soft value of the state after the token, zero after a terminal one.
        gamma: discount γ in [0, 1].

    Returns:
        [responses, tokens] rewards.

    Source: Q-Adapter (arXiv 2407.03856), the reward by the inverse soft Bellman operator.
    """
    return q_t - gamma * v_tp1
