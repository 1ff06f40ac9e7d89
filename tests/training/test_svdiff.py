"""SVDiff: its factors against the weight that they stand for, built in float64; and several things at once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from training.helping import Parts, learn, parts, plan
from wordbrush.attention import Heads, Site, plain
from wordbrush.concept import exchange
from wordbrush.concept.weights import Spectral
from wordbrush.errors import OptionsError, PromptError
from wordbrush.model import Conditioning, Model
from wordbrush.training.examples import Batch
from wordbrush.training.objective import losses
from wordbrush.training.svdiff.method import Convolution, Linear, Norm, layers
from wordbrush.training.unmix import Sides

LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...], Callable[[Any, Tensor, Tensor], Tensor]]] = {
    "linear, wide": (
        lambda: nn.Linear(6, 4),
        (3, 5, 6),
        lambda layer, given, weight: F.linear(given, weight, layer.bias),
    ),
    "linear, high, no bias": (
        lambda: nn.Linear(3, 7, bias=False),
        (2, 4, 3),
        lambda layer, given, weight: F.linear(given, weight),
    ),
    "convolution": (
        lambda: nn.Conv2d(3, 5, 3, padding=1),
        (2, 3, 6, 5),
        lambda layer, given, weight: F.conv2d(given, weight, layer.bias, padding=1),
    ),
    "convolution of 1": (
        lambda: nn.Conv2d(3, 5, 1, bias=False),
        (2, 3, 4, 4),
        lambda layer, given, weight: F.conv2d(given, weight),
    ),
    "convolution with steps": (
        lambda: nn.Conv2d(2, 30, (3, 2), stride=2, padding=(2, 1), dilation=2),
        (2, 2, 9, 8),
        lambda layer, given, weight: F.conv2d(given, weight, layer.bias, 2, (2, 1), 2),
    ),
    "layer norm": (
        lambda: nn.LayerNorm(6),
        (3, 6),
        lambda layer, given, weight: F.layer_norm(given, (6,), weight, layer.bias),
    ),
    "group norm": (
        lambda: nn.GroupNorm(2, 6),
        (2, 6, 4),
        lambda layer, given, weight: F.group_norm(given, 2, weight, layer.bias),
    ),
}


def made(
    name: str,
) -> tuple[Any, Any, Tensor, Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """A layer with random weights, in float64; what learns in its place; an input; W' by δ, and the layer with W'."""
    torch.manual_seed(0)
    make, shape, run = LAYERS[name]
    layer = make().double().requires_grad_(False)
    layer.weight.copy_(torch.randn_like(layer.weight))
    kind = Convolution if isinstance(layer, nn.Conv2d) else Linear if isinstance(layer, nn.Linear) else Norm
    weight = layer.weight if layer.weight.ndim > 1 else layer.weight[None]

    def rebuilt(shift: Tensor) -> Tensor:
        u, values, v = cast(Any, torch).linalg.svd(weight.flatten(1), full_matrices=False)
        return (u @ torch.diag((values + shift).relu()) @ v).view_as(layer.weight)

    return layer, kind(layer), torch.randn(shape).double(), rebuilt, lambda given, own: run(layer, given, own)


@pytest.mark.parametrize("name", LAYERS)
def test_factors_are_the_weight_and_its_gradient(name: str) -> None:
    """The output, and the gradients by δ and by the input, are those of W' = U · diag(relu(σ + δ)) · Vᵀ rebuilt."""
    _, own, given, rebuilt, run = made(name)
    shift = 0.8 * torch.randn_like(own.shift)
    shift[0] = -2 * own.values[0]  # shut by the relu
    given.requires_grad_(True)
    shift.requires_grad_(True)
    expected = run(given, rebuilt(shift))
    weights = torch.randn_like(expected)
    by_hand = torch.autograd.grad((expected * weights).sum(), [shift, given])
    own.shift.copy_(shift.detach())
    own.shift.requires_grad_(True)
    found = own(given)
    gradients = torch.autograd.grad((found * weights).sum(), [own.shift, given])
    torch.testing.assert_close(found, expected)
    for gradient, right in zip(gradients, by_hand, strict=True):
        torch.testing.assert_close(gradient, right)
    assert float(gradients[0][0]) == 0
    with torch.no_grad():
        torch.testing.assert_close(own(given), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_gradcheck(name: str) -> None:
    _, own, given, _, _ = made(name)

    def run(shift: Tensor, seen: Tensor) -> Tensor:
        return torch.func.functional_call(own, {"shift": shift}, (seen,))

    shift = 0.1 * torch.randn_like(own.shift)
    assert torch.autograd.gradcheck(run, (shift.requires_grad_(True), given.requires_grad_(True)))


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_as_large_as_the_weight_is_kept_for_the_gradient(name: str) -> None:
    """A pass keeps what comes out of Vᵀ, and the factors; never a weight of its own, or a gradient of one."""
    layer, own, given, _, _ = made(name)
    own.shift.requires_grad_(True)
    held = {each.untyped_storage().data_ptr() for each in (*own.buffers(), *own.parameters(), given)}
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in held:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = own(given)
    if isinstance(own, Norm):
        return
    rank = len(own.values)
    assert sum(kept) <= out.numel() // layer.weight.shape[0] * rank + 2 * rank


@pytest.mark.parametrize("name", LAYERS)
def test_without_shifts_and_gradients_it_is_the_layer(name: str) -> None:
    layer, own, given, _, _ = made(name)
    with torch.no_grad():
        assert torch.equal(own(given), layer(given))


def test_all_that_the_paper_counts() -> None:
    """Stable Diffusion 1's UNet has 140,416 singular values in matrices and 82,280 in convolutions."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    counts: dict[type[Any], int] = {Linear: 0, Convolution: 0, Norm: 0}
    for _, layer, kind in layers(unet):
        counts[kind] += 1 if kind is Norm else min(layer.weight.flatten(1).shape)
    assert (counts[Linear], counts[Convolution], counts[Norm]) == (140_416, 82_280, 109)


def testlayers_and_rates(base: Callable[..., Model], folder: Path) -> None:
    every = parts(base(), folder, "svdiff", norm_learning_rate=1e-5, train_text_encoder=True).trainee
    norms = {
        name for name in every.parameters if ".norm" in name or "layer_norm" in name or "norm_out" in name
    }
    assert set(every.rates) == norms and set(every.rates.values()) == {1e-5}
    assert {name.partition(".")[0] for name in every.parameters} == {"unet", "text_encoder"}
    few = parts(base(), folder, "svdiff", layers="cross-attention-kv").trainee
    assert few.parameters and all(name.endswith((".attn2.to_k", ".attn2.to_v")) for name in few.parameters)
    assert few.parameters.keys() < every.parameters.keys()


# Several things ----------------------------------------------------------------------------------------------

TWO: dict[str, Any] = {"prompt": ("a sks cat", "a tpk dog")}
SIDES = ("{left} by {right}", "{right} after {left} {left")


def told(own: Parts, count: int) -> list[str]:
    """The prompts of some passes."""
    seen: list[str] = []
    text = own.trainee.text

    def listening(prompts: Any, step: int = 0) -> Any:
        seen.extend(prompts)
        return text(prompts, step)

    object.__setattr__(own.trainee, "text", listening)
    for number in range(count):
        own.loss(number)
    return seen


def test_what_two_halves_show(base: Callable[..., Model], folder: Path) -> None:
    """The prompts of both, on their own sides, in the words that are chosen; of the classes likewise."""
    own = parts(base(), folder, "svdiff", cut_mix=1.0, batch_size=8, class_prompt=("a cat", "a dog"), **TWO)
    object.__setattr__(own.options, "side_by_side", SIDES)
    seen = told(own, 4)
    pairs = [("a sks cat", "a tpk dog"), ("a cat", "a dog")]
    expected = {
        text
        for one, two in pairs
        for left, right in ((one, two), (two, one))
        for text in (f"{left} by {right}", f"{right} after {left} {{left")
    }
    assert set(seen) == expected
    batch = own.task.examples.batch(0, 8, own.task.share)
    for k, row in enumerate(seen[:8]):
        left = TWO["prompt"][own.task.pictures.thing(batch.pictures[k])]
        assert row.startswith(f"{left} by") or f"after {left}" in row


def test_alone_each_has_its_own_prompt(base: Callable[..., Model], folder: Path) -> None:
    own = parts(base(), folder, "svdiff", cut_mix=0.0, batch_size=6, **TWO)
    batch = own.task.examples.batch(0, 6, own.task.share)
    assert told(own, 1) == [TWO["prompt"][own.task.pictures.thing(k)] for k in batch.pictures]
    some = told(parts(base(), folder, "svdiff", batch_size=64, **TWO), 1)
    mixed = [each for each in some if "sks" in each and "tpk" in each]
    assert 0.4 < len(mixed) / 64 < 0.8


def test_one_prompt_for_each_folder(base: Callable[..., Model], folder: Path) -> None:
    with pytest.raises(OptionsError, match="'prompt': expected one for each of 1 folder, got 2"):
        parts(base(), folder, "svdiff", prompt=["a sks cat", "a tpk dog"])
    with pytest.raises(
        OptionsError, match="'class_prompt': expected one for all, or one for each of 2 folders"
    ):
        parts(base(), folder, "svdiff", class_prompt=("a", "b", "c"), **TWO)


@pytest.mark.parametrize(
    "told",
    [
        {"prompt": ("a sks cat", "a tpk dog"), "side_by_side": ("{left} and " + "cat " * 70 + "{right}",)},
        {"prompt": ("sks " + "cat " * 38, "tpk " + "dog " * 38)},
        {"prompt": ("a sks cat", "a tpk dog"), "class_prompt": ("cat " * 38, "dog " * 38)},
    ],
)
def test_two_prompts_that_do_not_fit_beside_each_other_are_told_before_the_work(
    told: dict[str, Any], base: Callable[..., Model], folder: Path
) -> None:
    with pytest.raises(PromptError, match="shorten it"):
        plan(base(), folder, "svdiff", **told)


def test_notes_are_of_each_thing(base: Callable[..., Model], folder: Path) -> None:
    notices = plan(
        base("pocket"), folder, "svdiff", prompt=("a sks cat", "a dog"), class_prompt="a cat"
    ).notices
    assert any("'a dog' and --class-prompt 'a cat' have no word in common" in each for each in notices)
    assert not any("'a sks cat'" in each for each in notices)


def test_what_is_kept_is_what_svdiff_pytorch_reads(
    base: Callable[..., Model], folder: Path, tmp_path: Path
) -> None:
    concept = learn(base(), folder, "svdiff", train_text_encoder=True).concept
    assert all(isinstance(own, Spectral) for own in concept.weights.values())
    (tmp_path / "theirs").mkdir()
    files = exchange.write(concept, tmp_path / "theirs" / "spectral_shifts.safetensors", base(), to="svdiff")
    assert [file.name for file in files] == ["spectral_shifts.safetensors", "spectral_shifts_te.safetensors"]
    again = exchange.read(files[0], base())
    assert again.weights.keys() == concept.weights.keys()
    for name, own in again.weights.items():
        kept = concept.weights[name]
        assert isinstance(own, Spectral) and isinstance(kept, Spectral)
        assert torch.equal(own.shift, kept.shift)


# Where words look --------------------------------------------------------------------------------------------


def looked(model: Model, batch: Batch, text: Conditioning, sides: Sequence[Sides | None]) -> Tensor:
    """What `Unmix` is to measure, from explicit maps of whole softmaxes."""
    kept: list[tuple[Site, Tensor]] = []

    def attend(site: Site, step: int, heads: Heads) -> Tensor:
        if site.is_cross:
            product = heads.query() @ heads.key().transpose(-1, -2)
            kept.append((site, (product / heads.channels**0.5).softmax(-1).mean(1)))
        return plain(site, step, heads)

    losses(model, batch, text, None, attend)
    found = torch.zeros(len(sides), dtype=torch.float64)
    for row, own in enumerate(sides):
        for site, maps in kept if own is not None else ():
            assert own is not None
            read = model.read(own[0])
            left, right = (
                [k for word in read.find(each) for k in range(word.start, word.stop)] for each in own[1:]
            )
            both = set(left) & set(right)
            grid = maps[row].reshape(site.height, site.width, -1)
            for tokens, columns in (
                (left, [x for x in range(site.width) if x + 0.5 > site.width / 2]),
                (right, [x for x in range(site.width) if x + 0.5 < site.width / 2]),
            ):
                own_tokens = [k for k in tokens if k not in both]
                wrong = [grid[y, x, own_tokens].sum() ** 2 for y in range(site.height) for x in columns]
                found[row] += float(torch.stack(wrong).mean()) / len(kept)
    return found


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_what_is_measured_is_what_words_look_at_in_the_wrong_half(
    shape: str, tiny: Callable[..., Model], folder: Path
) -> None:
    model = tiny(shape, torch.float64)
    own = parts(model, folder, "svdiff", cut_mix=0.7, batch_size=5, unmix=2.0, **TWO)
    batch = own.task.examples.batch(0, 5, own.task.share)
    prompts = told(own, 1)
    words = [TWO["prompt"][own.task.pictures.thing(k)] for k in range(len(own.task.pictures))]
    sides = [
        None if beside is None else (prompt, words[picture], words[beside])
        for prompt, picture, beside in zip(prompts, batch.pictures, batch.beside, strict=True)
    ]
    assert {each is None for each in sides} == {True, False}
    with torch.no_grad():
        expected = looked(model, batch, Conditioning(model.encode_text(prompts)), sides)
        whole, bare = (
            own.loss(0),
            parts(model, folder, "svdiff", cut_mix=0.7, batch_size=5, **TWO).loss(0),
        )
    assert float(whole - bare) == pytest.approx(2.0 * float(expected.mean()), rel=1e-9)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_words_learn_to_look_at_their_own_half(
    checkpointing: bool, base: Callable[..., Model], folder: Path
) -> None:
    """A small step along the gradient of what is measured lowers it as the gradient says, also where activations are
    computed again."""
    both = [
        parts(base(), folder, "svdiff", cut_mix=1.0, batch_size=2, unmix=weight, **TWO)
        for weight in (1000.0, 0.0)
    ]
    for own in both:
        unet: Any = own.trainee.model.denoiser.unet
        for shift in own.trainee.parameters.values():
            shift.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()
        own.loss(0).backward()
    shifts, others = (own.trainee.parameters for own in both)
    gradient = {name: _grad(shifts[name]) - _grad(others[name]) for name in shifts}
    length = sum(float(each.square().sum()) for each in gradient.values()) ** 0.5

    def measured() -> float:
        return float((both[0].loss(0) - both[1].loss(0)).detach())

    before = measured()
    with torch.no_grad():
        for name, along in gradient.items():
            for each in (shifts[name], others[name]):
                each -= 1e-3 / length * along
    assert measured() - before == pytest.approx(-1e-3 * length, rel=0.2)


def _grad(shift: Tensor) -> Tensor:
    return torch.zeros_like(shift) if shift.grad is None else shift.grad


@pytest.mark.parametrize("option", [{"cut_mix": 0.5}, {"unmix": 1.0}, {"side_by_side": ("{left}, {right}",)}])
def test_of_one_thing_there_is_nothing_to_mix(
    option: dict[str, Any], base: Callable[..., Model], folder: Path
) -> None:
    with pytest.raises(OptionsError, match=f"'{next(iter(option))}': expected a folder for each of several"):
        parts(base(), folder, "svdiff", prompt="a sks cat", **option)
