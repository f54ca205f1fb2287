"""Answers to prompts: batches of messages in, text out.

answers       greedy or sampled answers of the mixed policy at any strength
prompts_file  prompts out of a file
answer_file   answers to them in a file that grows batch by batch
"""

from .answer_file import answer_file
from .answers import Answer, answer_prompts, encode_prompts, stop_ids
from .prompts_file import Prompt, PromptRow, as_messages, chat_input, read_prompts

__all__ = [
    "Answer",
    "Prompt",
    "PromptRow",
    "answer_file",
    "answer_prompts",
    "as_messages",
    "chat_input",
    "encode_prompts",
    "read_prompts",
    "stop_ids",
]
