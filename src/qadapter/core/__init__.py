"""The paper (Li et al., ICLR 2025, arXiv 2407.03856) as pure functions on tensors. Torch is the only dependency.

Read in this order:

    residual_q        how a model's two logit vectors make the residual Q-function, in both parametrizations
    mixture           the mixed policy as one linear combination of logits; shared by the loss and the decoder
    soft_value        the soft value of a state
    policy            the customized policy's log-probabilities
    reward            the reward that a Q-function implies: the inverse soft Bellman operator
    preference_loss   discounted returns and the Bradley-Terry loss of a pair
    chi2              the squared-reward penalty
    chosen_nll        the negative log-likelihood of the chosen response
    objective         all of it for a batch of pairs, as named terms
    lm_head           from hidden states to logits, and the mixture taken on hidden states
    chunked_logsumexp logsumexp over the vocabulary and its gradient, no [tokens, vocabulary] tensor
    base_states       what the frozen base contributes in each state: a constant that can be kept
    base_kl           KL of the customized policy to the base in single states, over the whole vocabulary
    token_values      Q-values and soft values at the taken tokens without a [tokens, vocabulary] tensor to keep

Names carry the time step: `q_t` belongs to token `a_t` in state `s_t`, `v_tp1` to the state after it.
"""

from .base_kl import base_kl
from .base_states import BaseStates, base_states
from .chi2 import chi2_penalty
from .chosen_nll import chosen_nll
from .chunked_logsumexp import chunked_logsumexp
from .lm_head import LMHead, mix_hidden_states
from .mixture import Mixture, policy_mixture
from .objective import ObjectiveTerms, preference_objective
from .policy import policy_logp
from .preference_loss import bradley_terry_loss, discounted_return
from .residual_q import PARAMETRIZATIONS, Parametrization, ResidualQ, residual_q_function
from .reward import VALUE_STATES, ValueState, implied_rewards, next_state_values
from .soft_value import soft_value
from .token_values import TokenValues, token_values

__all__ = [
    "PARAMETRIZATIONS",
    "VALUE_STATES",
    "BaseStates",
    "LMHead",
    "Mixture",
    "ObjectiveTerms",
    "Parametrization",
    "ResidualQ",
    "TokenValues",
    "ValueState",
    "base_kl",
    "base_states",
    "bradley_terry_loss",
    "chi2_penalty",
    "chosen_nll",
    "chunked_logsumexp",
    "discounted_return",
    "implied_rewards",
    "mix_hidden_states",
    "next_state_values",
    "policy_logp",
    "policy_mixture",
    "preference_objective",
    "residual_q_function",
    "soft_value",
    "token_values",
]
