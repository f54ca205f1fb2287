"""What was gained and what was kept.

preference    held-out pairs: does Q̂ rank the chosen response above the rejected one?
fulfilment    freshly generated answers: how many does a program accept?
retention     neutral prompts: how far is the customized policy from the base, token by token?
probe         a small multiple-choice probe of what the model knows
report        one HTML page with plots
"""

from .fulfilment import fulfilment
from .preference import PreferenceResult, evaluate_preference
from .probe import evaluate_probe, load_probe
from .retention import RetentionResult, evaluate_retention, load_neutral_prompts

__all__ = [
    "PreferenceResult",
    "RetentionResult",
    "evaluate_preference",
    "evaluate_probe",
    "evaluate_retention",
    "fulfilment",
    "load_neutral_prompts",
    "load_probe",
]
