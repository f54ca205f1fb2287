"""The model card of an artifact."""

from __future__ import annotations

from typing import Any


def model_card(config: dict[str, Any]) -> str:
    """Markdown with YAML front matter; no pipeline tag, since no ordinary pipeline can run the folder.

    Args:
        config: the content of `qadapter_config.json`.
    """
    base, constants = config["base"]["name_or_path"], config["constants"]
    rows = "\n".join(f"| `{name}` | {value} |" for name, value in constants.items())
    return f"""---
library_name: qadapter
base_model: {base}
tags:
- q-adapter
- lora
---

# Q-Adapter for {base}

This folder holds a residual Q-function (a LoRA adapter and its constants) learned from preference pairs with
[Q-Adapter](https://arxiv.org/abs/2407.03856). It is *not* an ordinary LoRA: the customized policy mixes the adapter
with the frozen base model at every token.

```python
from qadapter import QAdapterForCausalLM, load_tokenizer

model, tokenizer = QAdapterForCausalLM.from_pretrained("."), load_tokenizer(".")
inputs = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "How do I keep basil fresh?"}}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True,
)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64, strength=1.0)[0]))
```

`strength` is the dial: 0 is the base model, 1 what was trained, above 1 extrapolates.

| constant | value |
|---|---|
{rows}
"""
