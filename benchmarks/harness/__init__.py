"""Side-by-side measurements: every subject in its own process, in turn, in one run.

`subjects.py` names what is measured, `worker.py` runs it, the other modules are the subjects.
"""
