"""What a picture with a merged concept costs, beside one without.

    python benchmarks/merged.py

Two concepts as Custom Diffusion leaves them, with random changes of keys and values, are merged and applied to the
built-in model. Pictures of prompts of equal length are made with and without, interleaved; processor time on one
thread, medians of the ratios within a round, and the quartiles. Expected: 1, since weights are merged once, when a
concept is applied. docs/benchmarks/training.md has the figures.
"""

import argparse
import statistics
import time

import torch

import wordbrush
from wordbrush.concept import Base, Concept, Placeholder
from wordbrush.concept.weights import Change, Difference
from wordbrush.model import Model

NOUNS = ("cat", "vase")


def concept(model: Model, noun: str, seed: int) -> Concept:
    """A word that is a noun, a little moved, and keys and values of cross-attention with a tenth of noise."""
    draw = torch.Generator().manual_seed(seed)
    (word,) = model.read(noun).words
    table = model.text.encoders[0].get_input_embeddings().weight.detach()
    vectors = table[model.read(noun).ids[word.start]][None]
    changes: dict[str, Change] = {
        name: Difference(0.1 * weight.std() * torch.randn(weight.shape, generator=draw))
        for name, weight in model.weights.items()
        if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
    }
    token = f"<my-{noun}>"
    return Concept(
        method="custom_diffusion",
        prompt=f"photo of a {token} {noun}",
        base=Base(name=model.name, hash=model.base_hash),
        placeholders={
            token: Placeholder((vectors + 0.1 * vectors.std() * torch.randn(vectors.shape, generator=draw),))
        },
        weights=changes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = Model.load("pocket", device="cpu")
    both = wordbrush.merge(model, [concept(model, noun, seed) for seed, noun in enumerate(NOUNS)])
    prompts = {
        "without": (model, "photo of a red cat and a red vase"),
        "with": (wordbrush.apply(model, both), "photo of a <my-cat> cat and a <my-vase> vase"),
    }

    def seconds(name: str, number: int) -> float:
        own, prompt = prompts[name]
        began = time.process_time()
        wordbrush.generate(own, prompt, seed=number, steps=asked.steps)
        return time.process_time() - began

    for name in prompts:
        seconds(name, 0)
    ratios: list[float] = []
    for number in range(asked.rounds):
        order = list(prompts)[:: 1 if number % 2 else -1]
        taken = {name: seconds(name, number) for name in order}
        ratios.append(taken["with"] / taken["without"])
    low, middle, high = statistics.quantiles(ratios)
    print(f"a picture with a merged concept ÷ one without: {middle:.3f} ({low:.3f}–{high:.3f})")


if __name__ == "__main__":
    main()
