#!/usr/bin/env bash
# The same measurements on one CUDA machine, in at most 9 minutes; nothing is downloaded.
#
#   benchmarks/gpu.sh [flags of benchmarks/run.py]
#
# Needs this checkout and a Python with the packages of pyproject.toml (and trl, for the comparison with it); name
# another with PYTHON=. The model is a Llama of 1B parameters with random weights, the pairs are random words.
set -euo pipefail
cd "$(dirname "$0")/.."
exec timeout 540 "${PYTHON:-python3}" benchmarks/run.py cuda --rounds 7 "$@"
