"""What each method moves, what it leaves alone, and that its file is what it learned."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training.helping import (
    METHODS,
    SHAPES,
    VARIANTS,
    content,
    digest,
    learn,
    output,
    parts,
    pictures,
    plan,
    weights,
)
from wordbrush import training
from wordbrush.concept import Concept, Use, applied
from wordbrush.concept.weights import Shut
from wordbrush.errors import InputError, NumericsError, OptionsError, PromptError
from wordbrush.methods import typed
from wordbrush.model import Model
from wordbrush.progress import drain
from wordbrush.training import run
from wordbrush.training.task import Trainee

PRECISIONS = [
    (torch.float32, None),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float64, None),
]
PROMPTS = {
    "textual_inversion": ("a photo of cat", "a photo of <x>"),
    "custom_diffusion": ("photo of a cat", "photo of a <x>"),
}
RARE = ("a sks cat", "a sks cat")


@pytest.fixture
def trainees(monkeypatch: pytest.MonkeyPatch) -> list[Trainee]:
    """What the trainings of a test attach."""
    found: list[Trainee] = []
    for method in training.METHODS.values():
        module: Any = method.load()

        def attached(*given: Any, own: Any = module.attached) -> Trainee:
            found.append(own(*given))
            return found[-1]

        monkeypatch.setattr(module, "attached", attached)
    return found


@pytest.mark.parametrize(("dtype", "cast"), PRECISIONS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_neutral_start(
    shape: str,
    variant: str,
    dtype: torch.dtype,
    cast: torch.dtype | None,
    base: Callable[..., Model],
    folder: Path,
):
    """Before the first step the model says what the base says, bit for bit, in the type it learns in."""
    method, told = VARIANTS[variant]
    model = base(shape, dtype)
    own = parts(model, folder, method, **told)
    before, after = PROMPTS.get(method, RARE)
    for plain, attached in zip(
        output(model, before, torch.autocast("cpu", cast) if cast else nullcontext()),
        output(own.trainee.model, after, torch.autocast("cpu", cast) if cast else nullcontext()),
        strict=True,
    ):
        if "train_text_encoder" in told and method == "dreambooth" and dtype.itemsize == 2:
            # Its float32 weights add up a text's embeds in float32, where the base's round them.
            torch.testing.assert_close(plain.float(), attached.float(), rtol=0.1, atol=0.1)
        else:
            assert torch.equal(plain, attached)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {each.dtype for each in own.trainee.parameters.values()} == {wide}
    assert not any(each.requires_grad for each in own.trainee.parameters.values())


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_moves(
    shape: str, variant: str, base: Callable[..., Model], folder: Path, trainees: list[Trainee]
):
    """Only what learns; the base has every byte that it had, and its flags."""
    method, told = VARIANTS[variant]
    model = base(shape)
    before, hashed = digest(weights(model)), model.hash
    names = set(weights(parts(model, folder, method, **told).trainee.model))
    trainees.clear()
    trained = learn(model, folder, method, **told)
    (trainee,) = trainees
    assert digest(weights(model)) == before and model.hash == hashed
    after = weights(trainee.model)
    assert after.keys() == names
    known = {id(each) for each in trainee.parameters.values()}
    networks = trainee.model.networks.items()
    learning = {
        f"{part}.{name}"
        for part, own in networks
        for name, each in own.named_parameters()
        if id(each) in known
    }
    assert len(learning) == len(trainee.parameters)
    frozen = {
        name.replace(".layer.", "."): value
        for name, value in digest(after).items()
        if name not in learning and not name.endswith(".vectors")
    }
    assert frozen.keys() <= before.keys() and all(before[name] == value for name, value in frozen.items())
    prefixes = {name.partition(".")[0] for name in learning}
    assert ("text_encoder" in prefixes) == (
        method == "textual_inversion"
        or "train_text_encoder" in told
        or method == "custom_diffusion"
        and told.get("train_word", True)
    )
    assert ("unet" in prefixes) == (method != "textual_inversion")
    moving = parts(model, folder, method, **told).trainee.parameters
    moved = [name for name, each in trainee.parameters.items() if not torch.equal(each, moving[name])]
    assert len(moved) > 0.9 * len(moving)
    for own in (model, trainee.model):
        for network in own.networks.values():
            assert not any(each.requires_grad or each.grad is not None for each in network.parameters())
            assert not any(getattr(each, "gradient_checkpointing", False) for each in network.modules())
    assert trained.concept.base.hash == model.base_hash


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["full", "delta"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_file_is_what_was_learned(
    shape: str,
    variant: str,
    keep: str,
    base: Callable[..., Model],
    folder: Path,
    trainees: list[Trainee],
    tmp_path: Path,
):
    method, told = VARIANTS[variant]
    if keep == "delta" and method != "dreambooth":
        pytest.skip("DreamBooth's alone")
    told = {**told, **({"keep": keep} if method == "dreambooth" else {})}
    model = base(shape)
    content(learn(model, folder, method, **told), tmp_path / "a.concept")
    concept = Concept.load(tmp_path / "a.concept")
    prompt = concept.prompt
    again = output(applied(model, [Use(concept)]), prompt)
    cut_masks(method, trainees[-1])
    learned = output(trainees[-1].model, prompt)
    start = output(model, PROMPTS.get(method, (prompt, ""))[0])
    for one, other in zip(again, learned, strict=True):
        if method in ("lora", "svdiff") or keep == "delta":
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(one, other)
    assert float((learned[0] - start[0]).abs().max()) > 1e-3


def cut_masks(method: str, trainee: Trainee) -> None:
    """Cones keeps its masks cut at the threshold: 0 or 1."""
    for mask in trainee.parameters.values() if method == "cones" else ():
        mask.copy_(mask >= 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_again(variant: str, base: Callable[..., Model], folder: Path, tmp_path: Path):
    """Two rounds in one process: no state is left between them. Another seed learns something else."""
    method, told = VARIANTS[variant]
    one, two, other = (
        learn(base("sdxl"), folder, method, flip=0.5, crop="random", seed=seed, **told) for seed in (0, 0, 1)
    )
    torch.rand(7)
    assert content(one, tmp_path / "1") == content(two, tmp_path / "2") != content(other, tmp_path / "3")
    assert one.strip.tobytes() == two.strip.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        (torch.float32, "bfloat16"),
        (torch.float32, "float16"),
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.float64, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_types(
    variant: str,
    dtype: torch.dtype,
    precision: str | None,
    base: Callable[..., Model],
    folder: Path,
    tmp_path: Path,
):
    """It learns, in float32, something near to what it learns there; twice the same."""
    method, told = VARIANTS[variant]
    model = base("sd1", dtype)
    one, two = (learn(model, folder, method, precision=precision, sample_every=2, **told) for _ in range(2))
    assert content(one, tmp_path / "1") == content(two, tmp_path / "2")
    wide = learn(base("sd1"), folder, method, **told).concept
    for name, change in one.concept.weights.items():
        for kind, value in vars(change).items():
            if isinstance(change, Shut):
                # Where a gradient is rounding alone, Adam's step may have either sign.
                found, other = (set(vars(each)["indices"].tolist()) for each in (change, wide.weights[name]))
                assert len(found ^ other) < 0.2 * len(found | other)
            elif isinstance(value, Tensor) and kind != "alpha":
                assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
                assert float((value - getattr(wide.weights[name], kind)).abs().max()) < 0.1
    output(applied(model, [Use(one.concept)]), one.concept.prompt)


@pytest.mark.slow
@pytest.mark.parametrize("cast", [None, "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_checkpointing(
    shape: str,
    variant: str,
    cast: str | None,
    base: Callable[..., Model],
    folder: Path,
    trainees: list[Trainee],
):
    """Activations are computed again, and what is learned is the same to the bit; the base is never switched."""
    method, told = VARIANTS[variant]
    told = {**told, "precision": cast}
    plain = learn(base(shape), folder, method, **told).concept
    calls = {True: 0, False: 0}
    loop = run.run(plan(base(shape), folder, method, checkpointing=True, **told))
    found = None
    while found is None:
        try:
            progress = next(loop)
        except StopIteration as end:
            found = end.value.concept
            break
        if progress.stage == "training":
            unet, own = trainees[-1].model.denoiser.unet, base(shape).denoiser.unet
            assert unet is not own and not own.is_gradient_checkpointing
            assert unet.is_gradient_checkpointing and not unet.training
            if progress.step == 1:
                unet.up_blocks[0].resnets[0].register_forward_pre_hook(
                    lambda *_: calls.__setitem__(torch.is_grad_enabled(), calls[torch.is_grad_enabled()] + 1)
                )
    assert calls[True] == 2 * 2  # two more steps, each forward and again backward
    assert tensors(found) == tensors(plain)


def tensors(concept: Concept) -> dict[str, str]:
    values = {
        f"{name}.{kind}": value
        for name, change in concept.weights.items()
        for kind, value in vars(change).items()
        if isinstance(value, Tensor)
    }
    for token, own in concept.placeholders.items():
        values |= {f"{token}.{i}": each for i, each in enumerate(own.vectors)}
    return digest(values)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_error_leaves_nothing_switched(
    variant: str, base: Callable[..., Model], folder: Path, trainees: list[Trainee], tmp_path: Path
):
    """Also one that the caller raises between steps; the last checkpoint stays."""
    method, told = VARIANTS[variant]
    made = plan(base(), folder, method, checkpointing=True, checkpoint_every=1, **told)
    loop = run.run(made, tmp_path)
    while next(loop).step < 2 or next(loop).stage != "training":
        pass
    loop.close()
    network = trainees[-1].model
    for own in (network, base()):
        for each in own.networks.values():
            assert not any(p.requires_grad or p.grad is not None for p in each.parameters())
            assert not any(getattr(m, "gradient_checkpointing", False) for m in each.modules())
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] != []


def test_a_loss_that_is_not_finite(base: Callable[..., Model], folder: Path, tmp_path: Path):
    with pytest.raises(NumericsError, match="training step"):
        learn(
            base(), folder, "dreambooth", tmp_path, learning_rate=1.0, steps=60, max_norm=None,
            checkpoint_every=1, weight_decay=1.0, text_learning_rate=1.0, schedule="constant",
            sample_every=10**6, precision="float16",
        )  # fmt: skip
    assert list(tmp_path.glob("step-*")) != []


# Textual Inversion -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_no_other_row_moves(shape: str, base: Callable[..., Model], folder: Path, trainees: list[Trainee]):
    """Not even by weight decay, and the table is the base's own."""
    model = base(shape)
    learn(model, folder, "textual_inversion", weight_decay=1.0, vectors=3)
    for own, learned in zip(model.text.encoders, trainees[-1].model.text.encoders, strict=True):
        table = learned.get_input_embeddings()
        assert table.weight is own.get_input_embeddings().weight
        assert table.vectors.shape[0] == 3


def test_vectors_start_at_the_tokens_in_turn(base: Callable[..., Model], folder: Path):
    model = base()
    table = model.text.encoders[0].get_input_embeddings().weight
    cat, dog, on = (
        table[i] for i in model.text.tokenizers[0]("cat dog on", add_special_tokens=False)["input_ids"]
    )

    def start(init: str, vectors: int | None = None) -> Tensor:
        own = parts(model, folder, "textual_inversion", init=init, vectors=vectors)
        return own.trainee.parameters["text_encoder"]

    assert torch.equal(start("cat"), cat[None])
    assert torch.equal(start("cat dog"), torch.stack([cat, dog]))
    assert torch.equal(start("cat dog", 3), torch.stack([cat, dog, cat]))
    assert torch.allclose(start("cat dog on", 1), torch.stack([cat, dog, on]).mean(0))
    assert torch.allclose(start("cat dog on", 2), torch.stack([(cat + dog) / 2, on]))


@pytest.mark.parametrize("shape", SHAPES)
def test_progressive_vectors(shape: str, base: Callable[..., Model], folder: Path, trainees: list[Trainee]):
    """A vector is untouched until its step, and a prompt has as many as have come."""
    told = {"init": "cat", "vectors": 3, "progressive": (2, 4), "steps": 6, "weight_decay": 1.0}
    model = base(shape)
    start = parts(model, folder, "textual_inversion", **told).trainee
    own = start.parameters["text_encoder"].clone()
    counts = [start.at(step).text.placeholders["<x>"] for step in range(6)]
    assert counts == [1, 1, 2, 2, 3, 3]
    seen: list[Tensor] = []
    for progress in run.run(plan(model, folder, "textual_inversion", **told)):
        if progress.stage == "training":
            seen.append(trainees[-1].parameters["text_encoder"].detach().clone())
    decay = 1 - 0.01
    for step, vectors in enumerate(seen, 1):
        for place, first in enumerate((0, 2, 4)):
            if step <= first:  # nothing but weight decay, which `begin` undoes
                torch.testing.assert_close(vectors[place], own[place] * decay**step)
            else:
                expected = own[place] * decay ** (step - first)
                assert not torch.allclose(vectors[place], expected, atol=1e-4)


def test_styles(base: Callable[..., Model], folder: Path):
    from wordbrush.training.textual_inversion.method import OBJECT, STYLE

    for kind, templates in (("object", OBJECT), ("style", STYLE)):
        own = parts(base(), folder, "textual_inversion", kind=kind, batch_size=64)
        seen: list[str] = []
        text = own.trainee.text

        def told(prompts: Any, step: int = 0, text: Any = text, seen: list[str] = seen) -> Any:
            seen += prompts
            return text(prompts, step)

        object.__setattr__(own.trainee, "text", told)
        own.loss(0)
        assert set(seen) <= {each.replace("{}", "<x>") for each in templates}
        assert len(set(seen)) > len(templates) // 2


@pytest.mark.slow
def test_distinct_prompts_are_encoded_once(
    base: Callable[..., Model], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    encoded: list[int] = []
    encode = Model.encode_text

    def counted(model: Model, prompts: Any, **more: Any) -> Any:
        encoded.append(len(prompts))
        return encode(model, prompts, **more)

    monkeypatch.setattr(Model, "encode_text", counted)
    own = parts(base(), folder, "textual_inversion", templates=("a {}", "the {}"), batch_size=16)
    own.loss(0)
    assert encoded == [2]
    encoded.clear()
    own = parts(base(), folder, "lora", batch_size=4, class_prompt="a cat")
    for number in range(3):
        own.loss(number)
    assert encoded == [1, 1]  # both prompts, in all passes
    encoded.clear()
    own = parts(base(), folder, "lora", batch_size=4, class_prompt="a cat", train_text_encoder=True)
    for number in range(3):
        own.loss(number)
    assert encoded == [2, 2, 2]


# Cones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_a_mask_is_the_weights_times_the_weight(
    shape: str, base: Callable[..., Model], folder: Path
):
    """Keys and values of the cross-attention have masks, and nothing else; G is that of DreamBooth's weights."""
    masks, whole = (parts(base(shape), folder, method) for method in ("cones", "dreambooth"))
    own, weights = masks.trainee.parameters, whole.trainee.parameters
    assert own.keys() == {
        name for name in weights if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
    }
    for value in (*own.values(), *weights.values()):
        value.requires_grad_(True)
    with torch.enable_grad():
        of_masks = torch.autograd.grad(masks.loss(0), list(own.values()))
        of_weights = torch.autograd.grad(whole.loss(0), [weights[name] for name in own])
    for name, mine, theirs in zip(own, of_masks, of_weights, strict=True):
        assert float(mine.abs().max()) > 0
        torch.testing.assert_close(mine, theirs * weights[name].detach(), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize(
    ("threshold", "limit", "expected"),
    [
        (0.9, 1.0, [[0, 1, 3], [1, 2]]),
        (0.5, 1.0, [[0], [1, 2]]),
        (0.9, 0.25, [[0], [2]]),
        (0.9, 0.374, [[0], [2]]),
        (0.9, 0.5, [[0, 1], [1, 2]]),
        (0.9, 0.6, [[0, 1], [1, 2]]),
        (0.9, 0.05, [[], []]),
        (0.05, 1.0, [[], [2]]),
    ],
)
def test_what_is_shut(
    threshold: float, limit: float, expected: list[list[int]], base: Callable[..., Model], folder: Path
):
    """Below the threshold; never more than the limit, the lowest first."""
    own = parts(base(), folder, "cones", threshold=threshold, limit=limit)
    learned = {
        "unet.a": torch.tensor([[0.1, 0.6], [1.2, 0.7]]),
        "unet.b": torch.tensor([[1.0, 0.2, -0.3, 1.0]]),
    }
    found = own.method.export(own.trainee, own.task, own.options, learned).weights
    assert {name: change.indices.tolist() for name, change in found.items()} == {
        name: places for name, places in zip(learned, expected, strict=True) if places
    }


def test_a_training_that_moved_too_little_says_so(base: Callable[..., Model], folder: Path):
    trained = learn(base(), folder, "cones", learning_rate=1e-4)
    assert not trained.concept.weights
    assert trained.notices == (
        "nothing was learned, and the concept changes nothing: choose more --steps, or a higher --learning-rate",
    )
    assert applied(base(), [Use(trained.concept)]).hash == base().hash
    assert learn(base(), folder, "cones").notices == ()


def test_places_are_all_that_is_kept(base: Callable[..., Model], folder: Path, tmp_path: Path):
    """Four bytes for each entry that is shut, besides the header and the preview."""
    trained = learn(base(), folder, "cones", limit=0.1)
    size = len(content(trained, tmp_path / "a.concept"))
    (preview,) = trained.concept.previews
    places = sum(len(vars(change)["indices"]) for change in trained.concept.weights.values())
    entries = sum(mask.numel() for mask in parts(base(), folder, "cones").trainee.parameters.values())
    assert 0.05 * entries < places <= 0.1 * entries
    assert 0 < size - len(preview) - 4 * places < 10_000


# What does not fit together ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "told", "said"),
    [
        ("lora", {"warmup_steps": 3}, "'warmup_steps': expected fewer than the 3 steps, got 3"),
        ("lora", {"prompt": " "}, "'prompt': expected some words"),
        ("dreambooth", {"prompt": ""}, "'prompt': expected some words"),
        ("textual_inversion", {"templates": ("a photo",)}, "'templates': expected one {} for the word, got 'a photo'"),
        ("textual_inversion", {"templates": ("{} and {}",)}, "'templates': expected one {}"),
        ("textual_inversion", {"progressive": (2, 1), "vectors": 3}, "steps that rise, between 1 and 2, got 2,1"),
        ("textual_inversion", {"progressive": (1, 1), "vectors": 3}, "expected steps that rise"),
        ("textual_inversion", {"progressive": (3,), "vectors": 2}, "between 1 and 2, got 3"),
        ("textual_inversion", {"progressive": (0,), "vectors": 2}, "between 1 and 2, got 0"),
        ("textual_inversion", {"progressive": (1,), "vectors": 3}, "at which vectors 2 to 3 come, 2 of them, got 1"),
        ("textual_inversion", {"token": "cat"}, "'token': expected a word that the model does not have"),
        ("textual_inversion", {"token": "my cat"}, "'token': expected one word without spaces"),
        ("textual_inversion", {"token": ""}, "'token': expected some words"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(
    method: str, told: dict[str, Any], said: str, base: Callable[..., Model], folder: Path
):
    with pytest.raises(InputError) as caught:
        drain(run.run(plan(base(), folder, method, **told)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("lora", {"prompt": "cat " * 99}),
        ("lora", {"class_prompt": "cat " * 99}),
        ("lora", {"sample_prompt": "cat " * 99}),
        ("textual_inversion", {"templates": ("cat " * 99 + "{}",)}),
        ("textual_inversion", {"vectors": 30}),
    ],
)
def test_prompts_that_do_not_fit_are_told_before_the_work(
    method: str,
    told: dict[str, Any],
    base: Callable[..., Model],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("wordbrush.training.prior.class_pictures", None)
    with pytest.raises(PromptError):
        drain(
            run.run(
                plan(
                    base(), folder, method, **{"class_prompt": "a cat", **told} if method == "lora" else told
                )
            )
        )


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.bfloat16, "float32"), (torch.float16, "float32"), (torch.float64, "bfloat16")],
)
def test_a_precision_that_the_model_does_not_have(
    dtype: torch.dtype, precision: str, base: Callable[..., Model], folder: Path
):
    with pytest.raises(OptionsError, match=f"load it with --dtype {precision}"):
        plan(base("sd1", dtype), folder, "lora", precision=precision)


def test_several_things_for_a_method_that_learns_one(
    base: Callable[..., Model], folder: Path, tmp_path: Path
):
    several = [folder, pictures(tmp_path / "more", 1)]
    for method in ("textual_inversion", "dreambooth", "lora"):
        said = f"expected one folder for {typed(method)}, which learns one thing, got 2"
        with pytest.raises(OptionsError, match=said):
            plan(base(), several, method)


def test_a_model_with_concepts(base: Callable[..., Model], folder: Path):
    concept = learn(base(), folder, "lora").concept
    with pytest.raises(OptionsError, match="expected a model without concepts"):
        plan(applied(base(), [Use(concept)]), folder, "lora")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_pocket(
    method: str, base: Callable[..., Model], folder: Path, trainees: list[Trainee], tmp_path: Path
):
    model = base("pocket")
    before = digest(weights(model))
    one, two = (learn(model, folder, method, batch_size=1) for _ in range(2))
    assert content(one, tmp_path / "1") == content(two, tmp_path / "2")
    assert digest(weights(model)) == before
    prompt = one.concept.prompt
    cut_masks(method, trainees[-1])
    pairs = zip(
        output(applied(model, [Use(one.concept)]), prompt), output(trainees[-1].model, prompt), strict=True
    )
    for found, learned in pairs:
        torch.testing.assert_close(found, learned, rtol=1e-4, atol=1e-5)
