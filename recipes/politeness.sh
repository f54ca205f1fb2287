#!/usr/bin/env bash
# One epoch on a politeness preference, on a CPU: held-out accuracy and KL to the base.
#
#   PATH=.venv/bin:$PATH recipes/politeness.sh PAIRS.jsonl OUTPUT_DIR [flags of qadapter train]
#
# Further arguments go to `qadapter train`; results/politeness_wide.json was made with
# `--alpha-0 0.1 --alpha-tilde 0.1 --chi2-coef 0.3`.
#
# PAIRS.jsonl: TRL conversational pairs; measured with 994 pairs made from rasbt/LLMs-from-scratch (ch07,
# instruction-data-with-preference.json: chosen = the more polite wording). The last 100 pairs are held out.
set -euo pipefail
pairs=${1:?usage: recipes/politeness.sh PAIRS.jsonl OUTPUT_DIR}
out=${2:?usage: recipes/politeness.sh PAIRS.jsonl OUTPUT_DIR}
mkdir -p "$out"
head -n -100 "$pairs" > "$out/train.jsonl"
tail -n 100 "$pairs" > "$out/heldout.jsonl"
qadapter train --model HuggingFaceTB/SmolLM2-135M-Instruct --preset default --max-length 256 --num-train-epochs 1 \
  --train-file "$out/train.jsonl" --output-dir "$out/adapter" --save-steps 50 "${@:3}"
qadapter eval "$out/adapter" --preference-file "$out/heldout.jsonl" --max-length 256 --output "$out/eval.json"
