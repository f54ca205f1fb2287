"""Preference data: from files in any of the common formats to padded batches of tokens.

reading        rows of JSONL, JSON, CSV, Parquet, a hub data set or a `datasets.Dataset`
formats        what a row means: TRL standard and conversational, HH-RLHF, Q-Adapter chat files, DSP
columns        fields of no format: ignored, or refused
pairs          a preference pair, a bad row
dataset        all pairs of a source, with bad rows reported
statistics     duplicates, contradictions, lengths
tokenization   text to tokens with an exact prompt/response boundary
template_variables  values of a chat template's variables, fixed in it
anchors        answers of the base, without a preference
whole_file     files that are written whole or not at all
preview        tokens shown on a terminal
collator       padded batches
"""

from .anchors import Anchor, read_anchors, write_anchors
from .collator import PreferenceCollator
from .dataset import PAIR_COLUMNS, load_preference_dataset
from .template_variables import checked_variables, fix_variables
from .tokenization import (
    DAY_OF_PAIRS,
    NoRoomError,
    RefusedByTemplateError,
    TokenizedPair,
    encode_prompt,
    end_of_turn_id,
    tokenize_pair,
    user_turn_start,
    written_before_answers,
)

__all__ = [
    "DAY_OF_PAIRS",
    "PAIR_COLUMNS",
    "Anchor",
    "NoRoomError",
    "PreferenceCollator",
    "RefusedByTemplateError",
    "TokenizedPair",
    "checked_variables",
    "encode_prompt",
    "end_of_turn_id",
    "fix_variables",
    "load_preference_dataset",
    "read_anchors",
    "tokenize_pair",
    "user_turn_start",
    "write_anchors",
    "written_before_answers",
]
