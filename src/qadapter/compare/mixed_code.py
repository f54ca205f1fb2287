"""What there is to say where the finished jobs of a comparison were done by different code, or with other libraries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# What stands for the code of a job whose file is of before it was noted.
UNKNOWN_CODE = "unknown"


def mixed_code(codes: Collection[str], libraries: Mapping[str, Collection[str]] | None = None) -> str | None:
    """A sentence where finished jobs are of different code; such jobs are kept all the same, so that runs go on.

    Args:
        codes: the digests of the jobs' code. Jobs of `UNKNOWN_CODE` may differ among themselves.
        libraries: name → the versions that were noted of the jobs. Those of jobs without a note may be others too, but
            of these `UNKNOWN_CODE` or another digest speaks already.
    """
    found = []
    if len(codes) > 1:
        several = f"{'at least ' if UNKNOWN_CODE in codes else ''}{len(codes)} versions"
        found.append(f"mix jobs of {several} of qadapter's code ({', '.join(codes)})")
    elif UNKNOWN_CODE in codes:
        found.append(f"may mix jobs of several versions of qadapter's code ({', '.join(codes)})")
    if several_of := {name: versions for name, versions in (libraries or {}).items() if len(versions) > 1}:
        found.append(f"mix jobs done with different versions of other libraries ({in_words(several_of)})")
    if not found:
        return None
    return (
        f"these results {' and '.join(found)}, which may measure "
        "differently: to do all of it anew, remove the folders jobs and runs in the output directory (runs also holds "
        "what trainings share: anchors, answers for Replay, reward models), and run the same command again."
    )


def in_words(libraries: Mapping[str, Collection[str]]) -> str:
    """Each library with its version, or its versions."""
    return "; ".join(f"{name} {', '.join(versions)}" for name, versions in libraries.items())
