"""A short training in a process of its own, in the folder it is started in: `python processes.py VARIANT PICTURES`.

Under a launcher that sets RANK and WORLD_SIZE it is one of several.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

TOLD = {"steps": 6, "batch_size": 2, "sample_every": 2, "checkpoint_every": 2, "flip": 0.5}


@dataclass(frozen=True)
class Training:
    """A variant of `helping.VARIANTS`, learned from a folder of pictures into "run" and "learned.concept"."""

    variant: str
    pictures: str

    def __call__(self) -> int:
        import torch
        from transformers import CLIPTokenizer

        from conftest import sd1
        from training.helping import VARIANTS, learn
        from wordbrush.fit import shared_out
        from wordbrush.model import POCKET

        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = sd1(CLIPTokenizer.from_pretrained(POCKET / "tokenizer"))
        method, told = VARIANTS[self.variant]
        with shared_out() as share:
            trained = learn(model, Path(self.pictures), method, Path("run"), share, **TOLD, **told)
            if share.is_first:
                trained.concept.save("learned.concept")
        return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(Training(*sys.argv[1:])())
