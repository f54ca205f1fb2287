"""A judge of fresh answers for the small comparisons: which words and letters does the preference like?

Logistic regression (Bradley-Terry) on the difference of the n-gram frequencies of chosen and rejected responses; it
takes a second. It reads the first 300 characters alone, about what the comparison lets an answer have. Length still
counts: where the chosen responses are the shorter ones, a short answer gets more, whatever it says.

As a checker: `style_judge:score`, in a folder with `judge_pairs.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse import vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion

from qadapter.evaluate import repeats_itself

CHARACTERS = 300


def score(_prompt: object, text: str, finished: bool) -> float:
    """σ of the answer's strength, centred: 0.5 is a response like those of the pairs it was fitted on.

    An answer that ends in a loop gets 0: a small model that repeats "I'm sorry" for ever has all the right words.
    """
    return 0.0 if repeats_itself(text, finished=finished) else fitted(Path("judge_pairs.jsonl"))(text)


@cache
def fitted(path: Path) -> Callable[[str], float]:
    """The judge for a file of pairs."""
    with path.open(encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    chosen, rejected = ([pair[side][-1]["content"][:CHARACTERS] for pair in pairs] for side in ("chosen", "rejected"))
    grams = {"min_df": 2, "sublinear_tf": True}
    features = FeatureUnion(
        [
            ("letters", TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), **grams)),
            ("words", TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), **grams)),
        ]
    ).fit(chosen + rejected)
    a, b = features.transform(chosen), features.transform(rejected)
    labels = [1] * len(pairs) + [0] * len(pairs)
    model = LogisticRegression(fit_intercept=False, max_iter=1000).fit(vstack([a - b, b - a]), labels)
    weights = model.coef_[0]
    centre = float(np.mean(vstack([a, b]) @ weights))

    def strength(text: str) -> float:
        return float(1 / (1 + np.exp(centre - (features.transform([text[:CHARACTERS]]) @ weights)[0])))

    return strength
