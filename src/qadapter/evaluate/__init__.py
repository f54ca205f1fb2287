"""What was gained and what was kept.

policy        the base and the customized policy at a strength, as every measurement means them
policy_distance  how far policies are from each other in the states of given answers
preference    held-out pairs: does Q̂ rank the chosen response above the rejected one?
judges        who says what a freshly generated answer is worth
repetition    answers that fall into a loop
retention     neutral prompts: how far is the customized policy from the base, token by token?
probe         a small multiple-choice probe of what the model knows
perplexity    plain text: how well is it predicted?
tasks         benchmark tasks, of lm-evaluation-harness or from local files
harness       lm-evaluation-harness on the policy at a strength
measure       all of it for one policy, as one record
comparison    a customized policy beside the base, with intervals
statistics    the bootstrap behind the intervals
report        one HTML page with plots
"""

from .arguments import EvaluationArguments
from .comparison import difference_to_base, is_finite
from .inputs import EvaluationInputs, read_inputs
from .measure import measure_benchmarks, measure_policy
from .perplexity import PerplexityResult, evaluate_perplexity
from .preference import PreferenceResult, evaluate_preference
from .probe import evaluate_probe, load_probe
from .repetition import repeats_itself
from .retention import RetentionResult, evaluate_retention, load_neutral_prompts
from .statistics import Interval, bootstrap_difference, bootstrap_mean

__all__ = [
    "EvaluationArguments",
    "EvaluationInputs",
    "Interval",
    "PerplexityResult",
    "PreferenceResult",
    "RetentionResult",
    "bootstrap_difference",
    "bootstrap_mean",
    "difference_to_base",
    "evaluate_perplexity",
    "evaluate_preference",
    "evaluate_probe",
    "evaluate_retention",
    "is_finite",
    "load_neutral_prompts",
    "load_probe",
    "measure_benchmarks",
    "measure_policy",
    "read_inputs",
    "repeats_itself",
]
