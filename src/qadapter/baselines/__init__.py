"""Every method of a comparison behind one function, and all results as artifacts of one kind.

arguments         what all methods of a comparison share: base, pairs, LoRA, budget, schedule
training_pairs    which pairs a run sees, some of them flipped, and in which batches
method            what a method is: a function from a job to a trained model, and its own hyperparameters
trl_run           the trainers of TRL on the tokens that our own trainer sees
supervised        SFT and Replay
replay_answers    what the base answers by itself
preference        DPO, IPO, KTO, ORPO
reward_model      a reward model on the same pairs
reward_function   its rewards for RLOO
policy_gradient   RLOO with a KL penalty to the base
own               Q-Adapter itself, in the same clothes
registry          METHODS by name, and their hyperparameters checked
job               one training job: its files and its facts
process           the same in a process of its own
interpolation     post-hoc interpolation in weight space
content           files by what they hold
shared_file       what several runs use and one makes
code_digest       which code did a job
library_versions  with which libraries

TRL does the training; there is no training loop here. A trained LoRA is saved as an artifact with the constants
residual, α₀ = α̃ = 1: at strength 1 its policy is softmax(z₁), the method's own; at strength s it is softmax(s·z₁ +
(1 − s)·z₀), the interpolation of logits known as decoding-time realignment.
"""

from .arguments import CommonArguments
from .interpolation import scaled_adapter
from .job import TrainingFacts, TrainingJob, run_job
from .method import Hyperparameter, Method
from .policy import BASELINE_CONSTANTS, base_policy
from .process import run_in_process
from .registry import METHODS, check_job, checked_hyperparameters, method_of

__all__ = [
    "BASELINE_CONSTANTS",
    "METHODS",
    "CommonArguments",
    "Hyperparameter",
    "Method",
    "TrainingFacts",
    "TrainingJob",
    "base_policy",
    "check_job",
    "checked_hyperparameters",
    "method_of",
    "run_in_process",
    "run_job",
    "scaled_adapter",
]
