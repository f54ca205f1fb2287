"""Answers to prompts: batches of messages in, text out.

answers   greedy or sampled answers of the mixed policy at any strength
"""

from .answers import Answer, answer_prompts, stop_ids

__all__ = ["Answer", "answer_prompts", "stop_ids"]
