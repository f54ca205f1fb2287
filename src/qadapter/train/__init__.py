"""Training: the Trainer of transformers with the objective of `core` as its loss.

presets           the constants under a name: `default` and `paper`
arguments         one dataclass: TrainingArguments plus the method's fields
argument_checks   arguments over which transformers stumbles late
anchors           what the base itself asks and answers
precision         which dtypes can be trained on
dataset           tokenized pairs, with the count of what was cut
token_rows        pairs in any form as token rows that a base can take
sampler           batches of like length in an order that a resumed run repeats
base_cache        the base's part of the loss on disk, in chunks with checksums
base_cache_build  which cache belongs to a run; filling it
cached_collator   batches that carry the base's part of the loss
metrics           the names under which a batch of pairs is logged
callbacks         metrics.jsonl and progress
checkpoints       the checkpoints of an output_dir, and which are complete
full_disk         the error for a checkpoint that does not fit onto its disk
memory            what a device has left, and what work takes
memory_estimate   how many pairs fit, and the error for a batch that does not
micro_batch       a batch in parts that fit into memory
fitting           the Trainer's step on such parts
trainer           QAdapterTrainer
"""

from .anchors import sample_anchors
from .arguments import RUN_CONFIG_FILE, QAdapterTrainingArguments
from .dataset import tokenize_dataset, usable_pairs
from .presets import PRESETS
from .trainer import QAdapterTrainer

__all__ = [
    "PRESETS",
    "RUN_CONFIG_FILE",
    "QAdapterTrainer",
    "QAdapterTrainingArguments",
    "sample_anchors",
    "tokenize_dataset",
    "usable_pairs",
]
