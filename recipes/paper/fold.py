"""Fold a trained adapter into its base: the first stage of an experiment in two stages, as a plain model.

python recipes/paper/fold.py ADAPTER OUT
"""

import sys

from qadapter import QAdapterForCausalLM, load_tokenizer

adapter, out = sys.argv[1:]
QAdapterForCausalLM.from_pretrained(adapter).fold().save_pretrained(out)
load_tokenizer(adapter).save_pretrained(out)
