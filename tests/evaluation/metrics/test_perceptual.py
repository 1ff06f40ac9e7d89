"""LPIPS against an implementation of its own in float64, on random networks with the published heads."""

import importlib.resources
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, ConvNextConfig, ConvNextModel

from wordbrush.backbones import Encoder
from wordbrush.errors import ImageError, ModelError
from wordbrush.evaluation.metrics import perceptual
from wordbrush.evaluation.metrics.perceptual import Lpips, Net, PocketDistance, load_lpips
from wordbrush.pocket import change, mask, render, sample

PICTURES = [render(sample(seed)).resize((64, 64)) for seed in range(6)]
CHANGE = mask(sample(0), change(sample(0), thing=0, name="tiger"))
MASK = np.asarray(Image.fromarray(CHANGE).resize((64, 64)))  # read-only, as Pillow's arrays are
NETS: tuple[Net, ...] = ("alex", "vgg", "squeeze")

# torchvision's networks as their papers' tables have them: convolutions (out, in, kernel), pools, and squeezenet's
# fire blocks (in, squeezed, expanded), with the numbers that their tensors carry. "tap" marks what LPIPS compares.
TABLES: dict[Net, list[tuple[object, ...]]] = {
    "alex": [
        ("conv", 0, 64, 3, 11, 4, 2),
        ("tap",),
        ("pool", 3, 2, False),
        ("conv", 3, 192, 64, 5, 1, 2),
        ("tap",),
        ("pool", 3, 2, False),
        ("conv", 6, 384, 192, 3, 1, 1),
        ("tap",),
        ("conv", 8, 256, 384, 3, 1, 1),
        ("tap",),
        ("conv", 10, 256, 256, 3, 1, 1),
        ("tap",),
    ],
    "vgg": [
        ("conv", 0, 64, 3, 3, 1, 1),
        ("conv", 2, 64, 64, 3, 1, 1),
        ("tap",),
        ("pool", 2, 2, False),
        ("conv", 5, 128, 64, 3, 1, 1),
        ("conv", 7, 128, 128, 3, 1, 1),
        ("tap",),
        ("pool", 2, 2, False),
        ("conv", 10, 256, 128, 3, 1, 1),
        ("conv", 12, 256, 256, 3, 1, 1),
        ("conv", 14, 256, 256, 3, 1, 1),
        ("tap",),
        ("pool", 2, 2, False),
        ("conv", 17, 512, 256, 3, 1, 1),
        ("conv", 19, 512, 512, 3, 1, 1),
        ("conv", 21, 512, 512, 3, 1, 1),
        ("tap",),
        ("pool", 2, 2, False),
        ("conv", 24, 512, 512, 3, 1, 1),
        ("conv", 26, 512, 512, 3, 1, 1),
        ("conv", 28, 512, 512, 3, 1, 1),
        ("tap",),
    ],
    "squeeze": [
        ("conv", 0, 64, 3, 3, 2, 0),
        ("tap",),
        ("pool", 3, 2, True),
        ("fire", 3, 64, 16, 64),
        ("fire", 4, 128, 16, 64),
        ("tap",),
        ("pool", 3, 2, True),
        ("fire", 6, 128, 32, 128),
        ("fire", 7, 256, 32, 128),
        ("tap",),
        ("pool", 3, 2, True),
        ("fire", 9, 256, 48, 192),
        ("tap",),
        ("fire", 10, 384, 48, 192),
        ("tap",),
        ("fire", 11, 384, 64, 256),
        ("tap",),
        ("fire", 12, 512, 64, 256),
        ("tap",),
    ],
}


def random_weights(net: Net) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes: dict[str, tuple[int, ...]] = {}
    for kind, *row in TABLES[net]:
        if kind == "conv":
            number, out, into, kernel, *_ = row
            shapes[f"features.{number}"] = (out, into, kernel, kernel)
        elif kind == "fire":
            number, into, squeezed, expanded = row
            shapes[f"features.{number}.squeeze"] = (squeezed, into, 1, 1)
            shapes[f"features.{number}.expand1x1"] = (expanded, squeezed, 1, 1)
            shapes[f"features.{number}.expand3x3"] = (expanded, squeezed, 3, 3)
    weights: dict[str, Tensor] = {"classifier.1.weight": torch.zeros(2)}
    for name, shape in shapes.items():
        fan_in = math.prod(shape[1:])
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return weights


def heads(net: Net) -> list[Tensor]:
    file = importlib.resources.files("torchmetrics") / f"functional/image/lpips_models/{net}.pth"
    loaded = torch.load(str(file), weights_only=True, map_location="cpu")
    return [loaded[f"lin{i}.model.1.weight"].double() for i in range(len(loaded))]


def oracle(net: Net, weights: dict[str, Tensor], one: Image.Image, other: Image.Image) -> list[Tensor]:
    """Each layer's weighted map, in float64."""

    def convolved(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = (weights[f"{name}.{part}"].double() for part in ("weight", "bias"))
        return torch.relu(F.conv2d(x, weight, bias, stride, padding))

    def taps(picture: Image.Image) -> list[Tensor]:
        values = torch.from_numpy(np.asarray(picture) / 255 * 2 - 1).permute(2, 0, 1)[None]
        shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
        x = (values - shift) / torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
        taken = []
        for kind, *row in TABLES[net]:
            if kind == "tap":
                taken.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
            elif kind == "pool":
                x = F.max_pool2d(x, row[0], row[1], ceil_mode=row[2])
            elif kind == "conv":
                x = convolved(x, f"features.{row[0]}", row[4], row[5])
            else:
                small = convolved(x, f"features.{row[0]}.squeeze")
                wide = [
                    convolved(small, f"features.{row[0]}.expand1x1"),
                    convolved(small, f"features.{row[0]}.expand3x3", padding=1),
                ]
                x = torch.cat(wide, 1)
        return taken

    return [
        F.conv2d((a - b) ** 2, head) for a, b, head in zip(taps(one), taps(other), heads(net), strict=True)
    ]


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest) -> Net:
    return request.param


@pytest.fixture(scope="module")
def weights(net: Net) -> dict[str, Tensor]:
    return random_weights(net)


@pytest.fixture(scope="module")
def lpips(net: Net, weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    path = tmp_path_factory.mktemp("lpips") / f"{net}.pth"
    torch.save(weights, path)
    return load_lpips(net, path)


@pytest.fixture(scope="module")
def pocket() -> PocketDistance:
    torch.manual_seed(3)
    model = ConvNextModel(
        ConvNextConfig(num_stages=3, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], layer_scale_init_value=0.5)
    )
    whole = CLIPImageProcessorPil(size={"shortest_edge": 64}, do_center_crop=False)
    return PocketDistance(Encoder("pocket", model.eval().requires_grad_(False), whole, whole))


def test_lpips_is_the_papers(net: Net, lpips: Lpips, weights: dict[str, Tensor]) -> None:
    assert lpips.name == f"lpips-{net}"
    maps = [oracle(net, weights, *pair) for pair in zip(PICTURES[:2], PICTURES[2:4], strict=True)]
    expected = [sum(layer.mean().item() for layer in each) for each in maps]
    assert min(expected) > 0.01
    assert lpips.distances(PICTURES[:2], PICTURES[2:4]) == pytest.approx(expected, rel=1e-4)


def test_masked_lpips_is_the_spatial_form_where_it_counts(
    net: Net, lpips: Lpips, weights: dict[str, Tensor]
) -> None:
    maps = oracle(net, weights, PICTURES[0], PICTURES[1])
    spatial = sum(F.interpolate(layer, (64, 64), mode="bilinear", align_corners=False) for layer in maps)
    expected = spatial[0, 0][torch.tensor(MASK)].mean().item()
    found = lpips.distances([PICTURES[0]] * 2, [PICTURES[1]] * 2, [MASK, None])
    assert found[0] == pytest.approx(expected, rel=1e-4)
    assert found[1] == pytest.approx(lpips.distances(PICTURES[:1], PICTURES[1:2])[0], rel=1e-5)
    assert abs(found[0] - found[1]) > 1e-3


def test_the_pocket_distance_is_its_formula(pocket: PocketDistance) -> None:
    assert pocket.name == "pocket distance"
    maps = []
    for layer in pocket.encoder.layers(PICTURES[:2]):
        one, other = layer.double()
        cosines = (one * other).sum(0) / one.norm(dim=0) / other.norm(dim=0)
        maps.append(2 - 2 * cosines)
    expected = sum(each.mean().item() for each in maps) / 3
    assert pocket.distances(PICTURES[:1], PICTURES[1:2]) == pytest.approx([expected], rel=1e-4)
    full = [F.interpolate(each[None, None], (64, 64), mode="bilinear")[0, 0] for each in maps]
    expected = sum(each[torch.tensor(MASK)].mean().item() for each in full) / 3
    assert pocket.distances(PICTURES[:1], PICTURES[1:2], [MASK]) == pytest.approx([expected], rel=1e-4)


def test_another_encoders_distance_is_named_after_it(pocket: PocketDistance) -> None:
    eyes = pocket.encoder
    other = PocketDistance(Encoder("facebook/dino-vits16", eyes.model, eyes.middle, eyes.whole))
    assert other.name == "distance by facebook/dino-vits16"


@pytest.fixture(params=["lpips", "pocket"])
def distance(request: pytest.FixtureRequest, pocket: PocketDistance) -> Lpips | PocketDistance:
    if request.param == "pocket":
        return pocket
    features = perceptual._NETWORKS["squeeze"]()
    named = {name.removeprefix("features."): value for name, value in random_weights("squeeze").items()}
    features.load_state_dict({name: named[name] for name in features.state_dict()})
    return Lpips("squeeze", features.eval(), [head.float().flatten() for head in heads("squeeze")])


def test_equal_pictures_and_order(distance: Lpips | PocketDistance) -> None:
    assert distance.distances(PICTURES[:2], PICTURES[:2]) == [0, 0]
    there = distance.distances(PICTURES[:2], PICTURES[2:4])
    assert distance.distances(PICTURES[2:4], PICTURES[:2]) == pytest.approx(there, rel=1e-5)


def test_where_nothing_counts_there_is_no_distance(distance: Lpips | PocketDistance) -> None:
    found = distance.distances(PICTURES[:2], PICTURES[2:4], [np.zeros((64, 64), bool), None])
    assert math.isnan(found[0]) and not math.isnan(found[1])


def test_sizes_and_batches_do_not_mix(
    distance: Lpips | PocketDistance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, true = list(PICTURES[:3]), list(PICTURES[3:])
    made[1], true[1] = (np.asarray(picture.resize((96, 40))) for picture in (made[1], true[1]))
    alone = [distance.distances([a], [b])[0] for a, b in zip(made, true, strict=True)]
    assert distance.distances(made, true) == pytest.approx(alone, rel=1e-4)
    monkeypatch.setattr(perceptual, "_BATCH_PIXELS", 1)
    assert distance.distances(made, true) == pytest.approx(alone, rel=1e-4)


def test_what_cannot_be_compared(distance: Lpips | PocketDistance) -> None:
    with pytest.raises(ImageError, match="got 2, 1 and 2"):
        distance.distances(PICTURES[:2], PICTURES[:1])
    with pytest.raises(ImageError, match="of equal size, one is 64 × 64"):
        distance.distances(PICTURES[:1], [PICTURES[0].resize((32, 64))])
    with pytest.raises(ImageError, match="of equal size, one is 64 × 64"):
        distance.distances(PICTURES[:1], PICTURES[:1], [np.ones((3, 3), bool)])
    small = PICTURES[0].resize((31, 64))
    with pytest.raises(ImageError, match="at least 32 pixels a side, got 31 × 64"):
        distance.distances([small], [small])
    smallest = [picture.resize((32, 32)) for picture in PICTURES[:2]]
    assert distance.distances(smallest[:1], smallest[1:])[0] > 0


def test_safetensors_and_heads_of_ones_own(tmp_path: Path) -> None:
    weights = random_weights("squeeze")
    save_file(weights, tmp_path / "backbone.safetensors")
    fitted = {f"lin{i}.model.1.weight": 2 * head for i, head in enumerate(heads("squeeze"))}
    torch.save(fitted, tmp_path / "heads.pth")
    plain = load_lpips("squeeze", tmp_path / "backbone.safetensors")
    own = load_lpips("squeeze", tmp_path / "backbone.safetensors", tmp_path / "heads.pth")
    found = plain.distances(PICTURES[:1], PICTURES[1:2])
    assert own.distances(PICTURES[:1], PICTURES[1:2]) == pytest.approx([2 * found[0]], rel=1e-5)


class Payload:
    ran = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Payload, "ran", True)


def test_what_is_wrong_with_weights_is_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(ModelError, match="expected a file with the weights of vgg16-397923af.pth"):
        load_lpips("vgg", path)
    path.write_bytes(b"no archive")
    with pytest.raises(ModelError, match="weights.pth is damaged"):
        load_lpips("alex", path)
    path.write_bytes(b"\x80\x04.")  # of which torch warns, too
    with pytest.raises(ModelError, match=r"weights.pth: cannot be read \(pop from empty list\)"):
        load_lpips("alex", path)
    torch.save({"features.0.weight": Payload()}, path)
    with pytest.raises(ModelError, match="a pickle with more than tensors"):
        load_lpips("alex", path)
    assert not Payload.ran
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="names and tensors"):
        load_lpips("alex", path)
    torch.save(random_weights("alex"), path)
    with pytest.raises(
        ModelError,
        match=r"squeezenet1_1-b8a52dc0.pth, with features.0.weight of shape \[64, 3, 3, 3\], got \[64",
    ):
        load_lpips("squeeze", path)
    with pytest.raises(ModelError, match="expected 5 heads of alex"):
        load_lpips("alex", path, path)
