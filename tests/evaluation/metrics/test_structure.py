"""The structure distance against its formula in float64, and what it is blind to."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, ConvNextConfig, ConvNextModel, ViTConfig, ViTModel

from wordbrush.backbones import Encoder
from wordbrush.errors import ImageError
from wordbrush.evaluation.metrics import structure
from wordbrush.evaluation.metrics.structure import structure_distances
from wordbrush.pocket import render, sample

PICTURES = [render(sample(seed)) for seed in range(8)]


@pytest.fixture(scope="module", params=["vit", "convnext"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    if request.param == "vit":
        config = ViTConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
            initializer_range=0.5,
        )
        model = ViTModel(config, add_pooling_layer=False)
    else:
        model = ConvNextModel(
            ConvNextConfig(num_stages=2, hidden_sizes=[8, 12], depths=[1, 1], layer_scale_init_value=0.5)
        )
    crop = {"height": 32, "width": 32}
    middle = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop)
    whole = CLIPImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False)
    return Encoder("tiny", model.eval().requires_grad_(False), middle, whole)


def by_the_formula(encoder: Encoder, made: Image.Image, true: Image.Image, quirk: bool) -> float:
    """Tumanyan et al. 2022, eq. 2 and 3, with loops."""
    matrices = []
    for picture in (made, true):
        cells = encoder.cells([picture], values_0_to_255=quirk)[0].double().numpy()
        count = len(cells)
        cosines = np.zeros((count, count))
        for i in range(count):
            for j in range(count):
                cosines[i, j] = cells[i] @ cells[j] / np.linalg.norm(cells[i]) / np.linalg.norm(cells[j])
        matrices.append(cosines)
    return float(((matrices[0] - matrices[1]) ** 2).mean())


@pytest.mark.parametrize("quirk", [False, True])
def test_it_is_the_papers(encoder: Encoder, quirk: bool) -> None:
    distances = structure_distances(encoder, PICTURES[:3], PICTURES[3:6], values_0_to_255=quirk)
    expected = [
        by_the_formula(encoder, *pair, quirk) for pair in zip(PICTURES[:3], PICTURES[3:6], strict=True)
    ]
    assert distances == pytest.approx(expected, rel=1e-3)
    assert min(distances) > 1e-5


def test_the_quirk_is_another_number(encoder: Encoder) -> None:
    plain, quirk = (
        structure_distances(encoder, PICTURES[:1], PICTURES[1:2], values_0_to_255=on)[0]
        for on in (False, True)
    )
    assert abs(plain - quirk) > 1e-3 * plain


def test_equal_pictures_have_no_distance_and_order_does_not_matter(encoder: Encoder) -> None:
    assert structure_distances(encoder, PICTURES[:2], PICTURES[:2]) == pytest.approx([0, 0], abs=1e-10)
    there = structure_distances(encoder, PICTURES[:2], PICTURES[2:4])
    assert structure_distances(encoder, PICTURES[2:4], PICTURES[:2]) == pytest.approx(there)


def test_sizes_and_batches_do_not_mix(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    made, true = list(PICTURES[:4]), list(PICTURES[4:])
    made[1], true[1] = (picture.resize((96, 64)) for picture in (made[1], true[1]))
    monkeypatch.setattr(structure, "_BATCH", 2)
    alone = [structure_distances(encoder, [a], [b])[0] for a, b in zip(made, true, strict=True)]
    assert structure_distances(encoder, made, true) == pytest.approx(alone, rel=1e-4)


def test_what_cannot_be_compared(encoder: Encoder) -> None:
    with pytest.raises(ImageError, match="as many pictures as true ones, got 2 and 1"):
        structure_distances(encoder, PICTURES[:2], PICTURES[:1])
    with pytest.raises(ImageError, match="pair 1 to be of equal size"):
        structure_distances(encoder, PICTURES[:2], [PICTURES[0], PICTURES[1].resize((64, 64))])
    assert structure_distances(encoder, [], []) == []
