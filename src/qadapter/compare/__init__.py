"""Methods side by side: which gives the most of a preference for the least forgetting?

arguments           what the config file says of the comparison itself
methods             its methods: lines of the frontier, and the candidates of a sweep
plan                everything checked before anything slow starts
fingerprint         what determines a job, as a hash
module_source       what of a checker's source does
mixed_code          whether the same code did all jobs
jobs                finished jobs on disk, under readable names; progress
decode_time         seconds per generated token beside the base
running             trains and measures what is not there yet
axes                the two axes of the frontier, out of records
interval            intervals over prompts and seeds
scale               of the axis of forgetting: what lies between two policies of a dial
frontier            what lies on a frontier: its area, the cost of a given behaviour
frontier_figures    forgetting at equal behaviour, beside the reference
frontier_interval   where the area and the ratios to the reference may lie
results             all of it as one JSON value
plot                the frontier as PNG and SVG
report              HTML and Markdown
"""

from .arguments import CompareArguments
from .plan import TYPES, Plan, make_plan
from .report import write_reports
from .results import compare_results
from .running import Comparison, run_comparison

__all__ = [
    "TYPES",
    "CompareArguments",
    "Comparison",
    "Plan",
    "compare_results",
    "make_plan",
    "run_comparison",
    "write_reports",
]
