"""Named sets of constants. A field given by the user wins over the preset."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Starts at the base model itself; the penalty is a trust region around it. ρ = α₀/α̃ = 1.
    "default": {
        "parametrization": "residual",
        "alpha_0": 0.1,
        "alpha_tilde": 0.1,
        "gamma": 1.0,
        "chi2_coef": 0.3,
        "sft_coef": 0.2,
        "value_state": "next",
        "length_normalized": False,
        "anchors": 128,
        "anchor_coef": 3.0,
        "learning_rate": 1e-3,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
    },
    # The constants of the paper's official code.
    "paper": {
        "parametrization": "logits",
        "alpha_0": 0.01,
        "alpha_tilde": 1.0,
        "gamma": 1.0,
        "chi2_coef": 0.1,
        "sft_coef": 0.0,
        "value_state": "next",
        "length_normalized": False,
        "anchors": 0,
        "anchor_coef": 0.0,
        "learning_rate": 3e-4,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
    },
}
