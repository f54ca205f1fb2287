"""What there is to say where the finished jobs of a comparison were done by different code."""

from __future__ import annotations

from collections.abc import Collection

# What stands for the code of a job whose file is of before it was noted.
UNKNOWN_CODE = "unknown"


def mixed_code(codes: Collection[str]) -> str | None:
    """A sentence where finished jobs are of different code; such jobs are kept all the same, so that runs go on.

    Args:
        codes: the digests of the jobs' code. Jobs of `UNKNOWN_CODE` may differ among themselves.
    """
    if len(codes) > 1:
        mix = f"mix jobs of {'at least ' if UNKNOWN_CODE in codes else ''}{len(codes)} versions"
    elif UNKNOWN_CODE in codes:
        mix = "may mix jobs of several versions"
    else:
        return None
    return (
        f"these results {mix} of qadapter's code ({', '.join(codes)}), which may measure "
        "differently: to do all of it anew, remove the folders jobs and runs in the output directory (runs also holds "
        "what trainings share: anchors, answers for Replay, reward models), and run the same command again."
    )
