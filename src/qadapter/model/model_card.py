"""The model card of an artifact, and the parts that every card has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def model_card(config: dict[str, Any], *, location: str = ".", sections: Sequence[str] = ()) -> str:
    """Markdown with YAML front matter; no pipeline tag, since no ordinary pipeline can run the folder.

    Args:
        config: the content of `qadapter_config.json`.
        location: where the reader loads it from.
        sections: Markdown, each with its heading, that comes after the constants.
    """
    base = public_name(config["base"]["name_or_path"])
    load_in = config["base"].get("load_in")
    loading = f'"{location}", load_in="{load_in}"' if load_in else f'"{location}"'
    end = "\n".join([constants_table(config["constants"]), *sections])
    return f"""{front_matter(base, library="qadapter")}
# Q-Adapter for {base}

This folder holds a residual Q-function (a LoRA adapter and its constants) learned from preference pairs with
[Q-Adapter](https://arxiv.org/abs/2407.03856). It is *not* an ordinary LoRA: the customized policy mixes the adapter
with the frozen base model at every token.

```python
from qadapter import QAdapterForCausalLM, load_tokenizer

model, tokenizer = QAdapterForCausalLM.from_pretrained({loading}), load_tokenizer("{location}")
inputs = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "How do I keep basil fresh?"}}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True,
)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64, strength=1.0)[0]))
```

`strength` is the dial: 0 is the base model (at temperature α̃/α₀), 1 what was trained, above 1 extrapolates.
{_of_quantized_base(load_in) if load_in else ""}
{end}"""


def _of_quantized_base(load_in: str) -> str:
    return f"""
It was trained on the base in {load_in} (`load_in`, or `--load-in {load_in}`; extra `quantized`): on the base in full
precision the policy differs by what that rounds.
"""


def front_matter(base: str, *, library: str | None = None, pipeline_tag: str | None = None) -> str:
    """The YAML that hubs read. A base in a local folder is left out: the hub takes ids only.

    Args:
        base: hub id or folder.
        library: the hub's name of the library that loads the files.
        pipeline_tag: the hub's name of the task, for what an ordinary pipeline can run.
    """
    lines = [] if library is None else [f"library_name: {library}"]
    lines += [f"base_model: {base}"] if is_hub_id(base) else []
    lines += [] if pipeline_tag is None else [f"pipeline_tag: {pipeline_tag}"]
    return "\n".join(["---", *lines, "tags:", "- q-adapter", "- lora", "---", ""])


def is_hub_id(name: str) -> bool:
    """Whether a name is OWNER/NAME of the hub, and not a folder here."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def public_name(base: str) -> str:
    """What others may read of a base's name: its id on the hub, or of a folder here the last part alone."""
    return base if is_hub_id(base) else Path(base).name or base


def constants_table(constants: dict[str, Any]) -> str:
    """A Markdown table."""
    rows = "\n".join(f"| `{name}` | {value} |" for name, value in constants.items())
    return f"| constant | value |\n|---|---|\n{rows}\n"
