"""Make the table and the plot of benchmarks/README.md anew from benchmarks/results/latest-*.json."""

from pathlib import Path

from harness.report import update_readme

if __name__ == "__main__":
    for path in update_readme(Path(__file__).parent):
        print(f"written: {path}")
