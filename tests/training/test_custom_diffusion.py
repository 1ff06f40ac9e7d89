"""Custom Diffusion: its loss by its equations, several things at once, one after another, and what gets no gradient."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training.helping import PRIOR, Parts, digest, learn, output, parts, pictures, plan, weights
from wordbrush.concept import Concept, Use, applied
from wordbrush.errors import ConceptError, InputError, OptionsError, PromptError
from wordbrush.model import Conditioning, Model
from wordbrush.progress import drain
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.training import prior, rare_tokens, run
from wordbrush.training.custom_diffusion.options import Options

Base = Callable[..., Model]
METHOD = "custom_diffusion"
BOTH: dict[str, Any] = {
    "token": ("<x>", "<y>"),
    "init": ("cat", "big dog"),
    "class_prompt": ("a cat", "a dog"),
    "class_pictures": 1,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two things, of three and of two pictures."""
    root = tmp_path_factory.mktemp("things")
    return [pictures(root / "my-cat"), pictures(root / "my-dog", 2)]


def told(own: Parts) -> list[str]:
    """The prompts of forward passes from now on."""
    seen: list[str] = []
    text = own.trainee.text

    def spied(prompts: Sequence[str], step: int = 0) -> Conditioning:
        seen.extend(prompts)
        return text(prompts, step)

    object.__setattr__(own.trainee, "text", spied)
    return seen


# The loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("weight", [None, 1.0, 0.3])
def test_the_loss_is_that_of_its_equation(weight: float | None, sizes: bool, base: Base, folders: list[Path]):
    """Row by row, pixel by pixel; both means are of one kind, so that at weight 1 both count alike."""
    model = base("sd1", torch.float64)
    given: dict[str, Any] = {**BOTH, "sizes": sizes, "batch_size": 3}
    given |= {"class_prompt": ()} if weight is None else {"prior_weight": weight}
    own = parts(model, folders, METHOD, **given)
    for each in own.trainee.parameters.values():
        each.data += 0.02 * torch.randn(each.shape, generator=torch.Generator().manual_seed(3))
    kinds = ("", "") if weight is None else (" cat", " dog")
    prompts = [f"photo of a {token}{kind}" for token, kind in zip(("<x>", "<y>"), kinds, strict=True)]
    alphas = training_alphas_cumprod(model.schedule_config)
    for number in range(3):
        batches = [own.task.examples.batch(number, 3, own.task.share, sizes=sizes)]
        if own.task.prior is not None:
            batches.append(own.task.prior.batch(number, 3, own.task.share))
        means: list[float] = []
        for which, batch in enumerate(batches):
            rows: list[float] = []
            for k, picture in enumerate(batch.pictures):
                shown = prompts[int(picture > 2)] if which == 0 else own.task.prior_prompts[picture]
                prompt = batch.prefixes[k] + shown
                bar = alphas[batch.timesteps[k]]
                noisy = float(bar.sqrt()) * batch.latents[k] + float((1 - bar).sqrt()) * batch.noise[k]
                said = own.trainee.model.denoiser.unet(
                    noisy[None], batch.timesteps[k], own.trainee.model.encode_text([prompt]).hidden
                ).sample[0]
                square, count = 0.0, 0
                for y in range(said.shape[1]):
                    for x in range(said.shape[2]):
                        if batch.masks is None or batch.masks[k, 0, y, x]:
                            square += float((batch.noise[k, :, y, x] - said[:, y, x]).square().sum())
                            count += said.shape[0]
                rows.append(square / count)
            means.append(sum(rows) / len(rows))
        expected = means[0] if weight is None else means[0] + weight * means[1]
        assert float(own.loss(number)) == pytest.approx(expected, rel=1e-9)


def test_the_start_gets_no_gradient_and_says_what_it_said(base: Base, folder: Path):
    """In the weights neither: their gradient is that of the other positions."""
    model = base()
    own = parts(model, folder, METHOD)
    layers = [
        name for name, _ in model.denoiser.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))
    ]
    assert layers
    for name in layers:
        plain, learning = (each.denoiser.unet.get_submodule(name) for each in (model, own.trainee.model))
        context, same = (
            torch.randn(
                2, model.tokens, plain.in_features, generator=torch.Generator().manual_seed(1)
            ).requires_grad_()
            for _ in "ab"
        )
        pull = torch.randn(2, model.tokens, plain.out_features)
        learning.weight.requires_grad_(True)
        made = learning(context)
        assert torch.equal(made, plain(same))
        (made * pull).sum().backward()
        (plain(same) * pull)[:, 1:].sum().backward()
        assert context.grad is not None and same.grad is not None
        assert not context.grad[:, 0].any() and torch.equal(context.grad, same.grad)
        torch.testing.assert_close(
            learning.weight.grad, torch.einsum("btm,btd->md", pull[:, 1:], context.detach()[:, 1:])
        )
        learning.weight.requires_grad_(False)
        learning.weight.grad = None


# Words and prompts -------------------------------------------------------------------------------------------

PROMPTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no class": ({}, ("photo of a <x>",)),
    "a class": ({"class_prompt": "a cat"}, ("photo of a <x> cat",)),
    "a bare class": ({"class_prompt": "cat"}, ("photo of a <x> cat",)),
    "a class of two words": ({"class_prompt": "The big cat"}, ("photo of a <x> big cat",)),
    "a class's photo": ({"class_prompt": "a photo of an owl"}, ("photo of a <x> owl",)),
    "a class that begins like an article": ({"class_prompt": "ant"}, ("photo of a <x> ant",)),
    "a style": ({"kind": "style", "class_prompt": "a painting"}, ("painting in the style of <x> art",)),
    "said": ({"prompt": "my <x>, asleep", "class_prompt": "a cat"}, ("my <x>, asleep",)),
    "two": (
        {"token": ("<x>", "<y>"), "class_prompt": ("a cat", "an owl")},
        ("photo of a <x> cat", "photo of a <y> owl"),
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(name: str):
    given, expected = PROMPTS[name]
    assert Options.model_validate({"token": "<x>", **given}).prompts == expected


def test_words_start_from_rare_ones_by_seed_and_word(base: Base, folders: list[Path]):
    """Words that are trained apart begin apart, each as it would beside others."""
    model = base()
    table = model.text.encoders[0].get_input_embeddings().weight
    rare = table[[each.id for each in rare_tokens.candidates(model)]]

    def start(
        model: Model, folder: Path | list[Path], token: str | tuple[str, ...], seed: int = 7
    ) -> torch.Tensor:
        own = parts(model, folder, METHOD, token=token, init=(), seed=seed)
        return own.trainee.parameters["text_encoder"].clone()

    both = start(model, folders, ("<x>", "<y>"))
    assert all(bool((rare == row).all(1).any()) for row in both) and not torch.equal(both[0], both[1])
    assert torch.equal(start(model, folders[0], "<x>"), both[:1])
    assert torch.equal(start(model, folders[1], "<y>"), both[1:])
    assert not torch.equal(start(model, folders, ("<x>", "<y>"), seed=8), both)
    first = learn(model, folders[0], METHOD, token="<x>", init=(), seed=7).concept
    later = start(applied(model, [Use(first)]), folders[1], "<y>")
    assert torch.equal(later, both[1:])


def test_captions_take_the_place_of_prompts(base: Base, tmp_path: Path):
    seen = pictures(tmp_path / "a")
    (seen / "1.txt").write_text("a <x> cat on a beach")
    (seen / "2.txt").write_text("a cat on a beach")
    own = parts(base(), seen, METHOD, batch_size=3, sizes=False, class_prompt="a cat")
    prompts = told(own)
    own.loss(0)
    assert sorted(prompts[:3]) == ["a <x> cat on a beach", "a cat on a beach", "photo of a <x> cat"]
    (notice,) = plan(base(), seen, METHOD, class_prompt="a cat").notices
    assert notice.startswith("the captions of 2.txt".replace("txt", "png")) and "new word" in notice
    (seen / "1.txt").write_text("a <x> cat " * 40)
    with pytest.raises(PromptError):
        drain(run.run(plan(base(), seen, METHOD)))


def test_sizes_are_said_before_the_prompt(base: Base, folder: Path):
    own = parts(base(), folder, METHOD, batch_size=40)
    prompts = told(own)
    own.loss(0)
    prompt = "photo of a <x>"
    assert {each.removesuffix(prompt) for each in prompts} == {
        "",
        "zoomed in ",
        "close up ",
        "a far away ",
        "very small ",
    }


def test_text_without_the_word_is_encoded_once(base: Base, folder: Path, monkeypatch: pytest.MonkeyPatch):
    encoded: list[list[str]] = []
    encode = Model.encode_text

    def counted(model: Model, prompts: Sequence[str], **more: Any) -> Any:
        encoded.append(list(prompts))
        return encode(model, prompts, **more)

    monkeypatch.setattr(Model, "encode_text", counted)
    own = parts(base(), folder, METHOD, sizes=False, **PRIOR)
    losses = [own.loss(number) for number in range(2)]
    assert encoded == [["photo of a <x> cat"], ["a cat"], ["photo of a <x> cat"]]
    frozen = parts(base(), folder, METHOD, sizes=False, train_word=False, **PRIOR)
    encoded.clear()
    for number, loss in enumerate(losses):
        assert torch.equal(frozen.loss(number), loss)
    assert encoded == [["photo of a <x> cat"], ["a cat"]]


def test_a_word_that_does_not_learn_is_its_initial_word(base: Base, folder: Path):
    word = learn(base(), folder, METHOD, train_word=False).concept.placeholders["<x>"]
    assert word.initial is not None and torch.equal(word.vectors[0], word.initial[0])


# Several things ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_things_are_learned_at_once(base: Base, folders: list[Path]):
    """Each under its own prompt; every vector moves, the last one too."""
    model = base("sdxl")
    own = parts(model, folders, METHOD, **BOTH, sizes=False, batch_size=5)
    prompts = told(own)
    own.loss(0)
    assert sorted(prompts[:5]) == ["photo of a <x> cat"] * 3 + ["photo of a <y> dog"] * 2
    concept = learn(model, folders, METHOD, **BOTH).concept
    assert concept.prompt == "photo of a <x> cat and a <y> dog"
    assert [record.name for record in concept.pictures][::4] == ["my-cat/0.png", "my-dog/1.png"]
    assert {token: own.count for token, own in concept.placeholders.items()} == {"<x>": 1, "<y>": 2}
    for word in concept.placeholders.values():
        assert word.initial is not None and len(word.vectors) == 2
        for learned, initial in zip(word.vectors, word.initial, strict=True):
            assert bool((learned != initial).any(1).all())


@pytest.mark.slow
def test_pictures_of_both_classes_are_made(base: Base, folders: list[Path], tmp_path: Path):
    learn(base(), folders, METHOD, tmp_path, **BOTH)
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("class*/*.png"))
    assert made == ["class-2/00000.png", "class/00000.png"]


@pytest.mark.slow
@pytest.mark.parametrize("first_layers", ["kv", "all"])
def test_one_after_another(first_layers: str, base: Base, folders: list[Path], tmp_path: Path):
    """The second training keeps the first word as it is and goes on from the weights; base and first stay."""
    model = base()
    before = digest(weights(model))
    first = learn(model, folders[0], METHOD, layers=first_layers).concept.save(tmp_path / "x.concept")
    taught = applied(model, [Use(first)])
    middle = digest(weights(taught))
    own = parts(taught, folders[1], METHOD, token="<y>", init="dog")
    for prompt, same in (("photo of a <x>", "photo of a <x>"), ("photo of a dog", "photo of a <y>")):
        for one, other in zip(output(taught, prompt), output(own.trainee.model, same), strict=True):
            assert torch.equal(one, other)
    trained = learn(taught, folders[1], METHOD, token="<y>", init="dog", weight_decay=1.0)
    trained.concept.save(tmp_path / "both.concept")
    both = Concept.load(tmp_path / "both.concept")
    assert digest(weights(model)) == before and digest(weights(taught)) == middle
    assert list(both.placeholders) == ["<x>", "<y>"] and both.prompt == "photo of a <x> and a <y>"
    assert both.base.hash == model.base_hash and len(both.pictures) == 5
    for name in ("vectors", "initial"):
        kept, was = (getattr(each.placeholders["<x>"], name)[0] for each in (both, first))
        assert torch.equal(kept, was)
    assert both.weights.keys() == first.weights.keys()
    for name, change in both.weights.items():
        same = torch.equal(vars(change)["weight"], vars(first.weights[name])["weight"])
        assert same == (not name.removesuffix(".weight").endswith(("attn2.to_k", "attn2.to_v")))
    again = applied(model, [Use(both)])
    assert again.text.placeholders == {"<x>": 1, "<y>": 1}
    assert not torch.equal(output(again, "photo of a <x>")[0], output(taught, "photo of a <x>")[0])


@pytest.mark.slow
def test_only_concepts_of_its_own_are_gone_on_from(base: Base, folder: Path):
    first = learn(base(), folder, METHOD).concept
    other = learn(base(), folder, "lora").concept
    for uses in ([Use(first, 0.5)], [Use(other)], [Use(first), Use(other)]):
        with pytest.raises(OptionsError, match="expected concepts of custom-diffusion at strength 1"):
            plan(applied(base(), uses), folder, METHOD, token="<y>")
    with pytest.raises(
        OptionsError, match="expected a word that the model does not have, got '<X>', which it has"
    ):
        drain(run.run(plan(applied(base(), [Use(first)]), folder, METHOD, token="<X>")))
    with pytest.raises(ConceptError, match="two with '<x>'"):
        applied(base(), [Use(first), Use(learn(base(), folder, METHOD, seed=1).concept)])


# What does not fit together ----------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a word for two things": ({"token": "<x>", "init": ()}, "expected a word for each thing, of which there are 2"),
    "three words for two things": ({"token": ("<x>", "<y>", "<z>"), "init": ()}, "got 3: <x>, <y>, <z>"),
    "no word": ({"token": ()}, "option 'token'"),
    "a blank word": ({"token": ("<x>", " ")}, "expected some words"),
    "one word twice": ({"token": ("<x>", "<X>")}, "'token': expected another word for each thing, got <x>, <X>"),
    "a known word": ({"token": ("<x>", "cat")}, "which would mean something else in every prompt"),
    "one class for two things": ({"class_prompt": "a cat"}, "'class_prompt': expected one for each of 2 words"),
    "one start for two things": ({"init": "cat"}, "'init': expected one for each of 2 words, or none, got 1"),
    "a prompt without its word": ({"prompt": ("a <x>", "a <x>")}, "'prompt': expected <y> in it, got 'a <x>'"),
    "too long with a size": ({"prompt": ("a <x>", "a " * 28 + "<y>")}, "shorten it"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_told_before_the_work(
    name: str, base: Base, folders: list[Path], monkeypatch: pytest.MonkeyPatch
):
    given, said = WRONG[name]
    monkeypatch.setattr("wordbrush.training.prior.class_pictures", None)
    given = {"token": ("<x>", "<y>"), "init": ("cat", "dog"), **given}
    with pytest.raises(InputError) as caught:
        drain(run.run(plan(base(), folders, METHOD, **given)))
    assert said in str(caught.value)


def test_a_thing_without_a_class_is_doubted(base: Base, folder: Path):
    (notice,) = plan(base(), folder, METHOD).notices
    assert "say --class-prompt 'a cat', if it is a cat" in notice
    assert plan(base(), folder, METHOD, class_prompt="a cat").notices == ()


# Pictures of the class ---------------------------------------------------------------------------------------


def test_given_pictures_of_the_class_are_seen_under_their_captions(base: Base, folder: Path, tmp_path: Path):
    given = pictures(tmp_path / "cats", 2)
    (given / "0.txt").write_text("two cats")
    made = plan(base(), folder, METHOD, class_folder=str(given), class_prompt="a cat")
    found = drain(prior.prior_pictures(base(), made.options, made.prior, None))  # pyright: ignore[reportArgumentType]
    assert found is not None and found[1] == ("two cats", "a cat")
    own = parts(base(), folder, METHOD, batch_size=2, sizes=False, class_prompt="a cat")
    object.__setattr__(own.task, "prior_prompts", (*found[1], "two cats"))
    prompts = told(own)
    own.loss(0)
    assert prompts[:2] == ["photo of a <x> cat"] * 2 and set(prompts[2:]) <= {"two cats", "a cat"}
    concept = learn(base(), folder, METHOD, class_folder=str(given), class_prompt="a cat").concept
    assert all(isinstance(vars(own)["weight"], Tensor) for own in concept.weights.values())


def test_of_no_weight_no_pictures_are_made_or_seen(base: Base, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wordbrush.training.prior.class_pictures", None)
    rows: list[int] = []
    made = plan(base(), folder, METHOD, class_prompt="a cat", prior_weight=0)
    drain(run.run(made), lambda progress: rows.append(progress.gradient_rows))
    assert max(rows) == 2
