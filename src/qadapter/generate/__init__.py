"""Answers to prompts: batches of messages in, text out.

answers   greedy or sampled answers of the mixed policy at any strength
anchors   what the base itself asks and answers
"""

from .anchors import sample_anchors
from .answers import Answer, answer_prompts

__all__ = ["Answer", "answer_prompts", "sample_anchors"]
