"""Libraries that keep their log lines and progress bars to themselves; what we log is shown."""

from __future__ import annotations

import logging
import warnings


def quiet_libraries() -> None:
    """Errors only from transformers and datasets, no bars while weights load or data are mapped.

    Bars of downloads from the hub stay: they can take minutes.
    """
    # While it is imported it says which kernels it did without.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    # What one library has to change in its calls of another is no news for the user.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate|datasets)\.")
