"""ELITE: one masked picture to a word, what the word does to the attention, and how its mappers learn."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import wordbrush
from wordbrush.attention import Heads, Likeness, Site, TextCache, liken, plain
from wordbrush.concept import Concept, Portrait, Use, applied, exchange
from wordbrush.errors import ConceptError, ImageError, ModelError, OptionsError
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.model.sharing import shared
from wordbrush.pocket import Scene, Thing, render, segment
from wordbrush.training import METHODS, READS
from wordbrush.training.elite.features import FILLED, Eye, framed
from wordbrush.training.elite.mappers import Mappers, Shape
from wordbrush.training.elite.method import concept, doubts, mappers_for, settings_of
from wordbrush.training.elite.teaching import Classroom, Lesson

Base = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]
LEVELS = (-1, 2, 1)
WIDTHS = (224, 96, 48)
SCENE = Scene((Thing("cat", "purple", "large"),), "beach")
WORDS = 3
PROMPTS = ["a photo of <my-thing>, on a beach", "a cat on a beach", "", "<my-thing> and <my-thing>"]


def mappers(model: Model, grid: int = 8) -> Mappers:
    """Random mappers, whose every part does something."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = Mappers(Shape.of(model, "pocket", LEVELS, WIDTHS, hidden=16, grid=grid))
        made.begin(model)
        for parameter in made.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, base: Base) -> Callable[[str], str]:
    """folder("sd1"): where random mappers of that model are."""
    kept: dict[str, str] = {}

    def make(shape: str) -> str:
        if shape not in kept:
            path = tmp_path_factory.mktemp("mappers") / shape
            mappers(base(shape)).save(path)
            kept[shape] = str(path)
        return kept[shape]

    return make


@pytest.fixture(scope="session")
def made(base: Base, folder: Callable[[str], str]) -> Callable[..., Concept]:
    """made("sd1", local=0.5…): the concept of a purple cat."""

    def make(shape: str, dtype: torch.dtype = torch.float32, **options: Any) -> Concept:
        given = {"mappers": folder(shape), "words": WORDS, **options}
        return concept(base(shape, dtype), render(SCENE), segment(SCENE) == 1, given)

    return make


def outputs(model: Model, prompts: list[str], **more: Any) -> Tensor:
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    z = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        return model.denoiser.output(z, 500, Conditioning(model.encode_text(prompts)), **more)


def taught(model: Model, own: Concept, strength: float = 1.0) -> Model:
    return applied(model, [Use(own, strength)])


# What a concept has, and what it does ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_word_has_a_vector_of_each_level_in_each_encoder(shape: str, base: Base, made: Any) -> None:
    model, own = base(shape), made(shape)
    (placeholder,) = own.placeholders.values()
    widths = [each.get_input_embeddings().weight.shape[1] for each in model.text.encoders]
    assert [tuple(each.shape) for each in placeholder.vectors] == [(len(LEVELS), width) for width in widths]
    assert settings_of({}).words == 1
    with pytest.raises(OptionsError, match="at most the 3 that these mappers make, got 4"):
        made(shape, words=4)
    assert torch.equal(  # w0 is the last
        made(shape, words=1).placeholders["<my-thing>"].vectors[0][0], placeholder.vectors[0][-1]
    )
    layers = own.portraits["<my-thing>"].layers
    sites = [site for site in model.denoiser.sites((16, 16)) if site.is_cross]
    assert set(layers) == {site.name for site in sites}
    assert all(each.dtype == torch.float16 for layer in layers.values() for each in layer.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_only_rows_with_the_word_change(shape: str, dtype: torch.dtype, base: Base, made: Any) -> None:
    model = base(shape, dtype)
    before = {part: [each.clone() for each in own.parameters()] for part, own in model.networks.items()}
    known = outputs(model, [PROMPTS[1].replace("<my-thing>", "dog"), "a dog", ""] + ["a cat"])
    own = taught(model, made(shape))
    assert torch.equal(outputs(own, ["a cat on a beach", "a dog", "", "a cat"]), known)
    # Beside a row with the word, too.
    mixed = outputs(own, ["a cat on a beach", "a dog", "", "<my-thing>"])
    assert torch.equal(mixed[:3], known[:3])
    assert not torch.equal(mixed[3], known[3])
    for part, network in model.networks.items():
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before[part], strict=True))
        assert not any(isinstance(each, Likeness) for each in network.modules())


@pytest.mark.parametrize("shape", SHAPES)
def test_no_row_depends_on_the_others(shape: str, base: Base, made: Any) -> None:
    own = taught(base(shape, torch.float64), made(shape, torch.float64))
    together = outputs(own, PROMPTS)
    z = torch.randn(len(PROMPTS), 4, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            text = Conditioning(own.encode_text([prompt]))
            alone = own.denoiser.output(z[row : row + 1], 500, text)
        assert torch.allclose(together[row], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_concept_does_the_same(shape: str, base: Base, made: Any, tmp_path: Path) -> None:
    own = made(shape)
    own.save(tmp_path / "my.concept")
    loaded = Concept.load(tmp_path / "my.concept")
    assert loaded.record.sha256 == own.record.sha256
    a, b = (taught(base(shape), each) for each in (own, loaded))
    assert a.hash == b.hash != base(shape).hash
    assert torch.equal(outputs(a, PROMPTS), outputs(b, PROMPTS))


def test_a_concept_without_a_likeness_is_written_as_before(made: Any, tmp_path: Path) -> None:
    plain_one = replace(made("sd1"), portraits={})
    plain_one.save(tmp_path / "plain.concept")
    made("sd1").save(tmp_path / "own.concept")
    found = [(tmp_path / f"{name}.concept").read_bytes() for name in ("plain", "own")]
    assert b"wordbrush-concept.1" in found[0] and b"portraits" not in found[0]
    assert b"wordbrush-concept.2" in found[1]


def test_strength_0_is_the_base_and_its_first_word(base: Base, made: Any) -> None:
    model, own = base("sd1"), made("sd1", init="cat")
    nothing = taught(model, own, 0.0)
    assert nothing.networks["unet"] is model.networks["unet"]
    found = outputs(nothing, ["a <my-thing> on a beach"])
    # Every vector is that of "cat".
    assert torch.equal(found, outputs(model, ["a cat cat cat on a beach"]))


def test_strength_is_how_much_of_both_parts(base: Base, made: Any) -> None:
    unet = taught(base("sd1"), made("sd1", init="cat", local=0.8), 0.5).denoiser.unet
    full = made("sd1", init="cat", local=0.8).portraits["<my-thing>"].layers
    for name, module in unet.named_modules():
        if isinstance(module, Likeness):
            layer = full[name.partition(".likenesses")[0]]
            assert module.gate is not None and float(module.gate) == pytest.approx(0.4)
            assert module.key_change is not None
            assert torch.allclose(module.key_change, 0.5 * layer["key_change"].float(), atol=1e-7)
            assert module.keys is not None and torch.equal(module.keys, layer["keys"].float())


def test_the_hash_knows_how_much_is_local(base: Base, made: Any) -> None:
    hashes = {taught(base("sd1"), made("sd1", local=local)).hash for local in (0.0, 0.4, 0.8)}
    assert len(hashes) == 3


def test_two_words_are_two_things(base: Base, made: Any) -> None:
    one, other = made("sd1", token="<a>"), made("sd1", token="<b>", local=0.3)
    both = applied(base("sd1"), [Use(one), Use(other)])
    for token, own in (("<a>", one), ("<b>", other)):
        prompt = [f"a {token} on a beach"]
        assert torch.equal(outputs(both, prompt), outputs(taught(base("sd1"), own), prompt))
    assert outputs(both, ["<a> and <b>"]).isfinite().all()


def test_a_renamed_word_keeps_its_likeness(base: Base, made: Any) -> None:
    own = made("sd1")
    other = exchange.renamed(own, "<it>")
    expected = outputs(taught(base("sd1"), own), ["a <my-thing> here"])
    assert torch.equal(outputs(taught(base("sd1"), other), ["a <it> here"]), expected)


def test_no_other_format_holds_it(base: Base, made: Any, tmp_path: Path) -> None:
    for form in set(exchange.FORMATS) - {"wordbrush"}:
        with pytest.raises(ConceptError, match="which no other tool reads: use --to wordbrush"):
            exchange.files(made("sd1"), tmp_path / "x.safetensors", base("sd1"), to=form)


def test_a_likeness_of_another_kind_of_model_is_refused(base: Base, made: Any) -> None:
    own = made("sd1")
    with pytest.raises(ConceptError, match="in layers that this model has"):
        applied(base("sdxl"), [Use(own)])
    odd = {
        name: {key: each[..., :-1] for key, each in layer.items()}
        for name, layer in own.portraits["<my-thing>"].layers.items()
    }
    with pytest.raises(ConceptError, match="channels and reads"):
        applied(base("sd1"), [Use(replace(own, portraits={"<my-thing>": Portrait(0.8, odd)}))])
    with pytest.raises(ConceptError, match="in pairs"):
        Portrait(0.8, {"x": {"keys": torch.zeros(2, 2)}})


def test_attention_that_cannot_be_edited_has_no_likeness(
    base: Base, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wordbrush.model.denoiser import Denoiser

    monkeypatch.setattr(Denoiser, "unlike", "its attention layer x has a residual")
    with pytest.raises(ConceptError, match="a model whose attention can be edited"):
        applied(base("sd1"), [Use(made("sd1"))])


# The attention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_local_part_is_its_formula(shape: str, base: Base, made: Any) -> None:
    """λ · A / max A · softmax(QKᵀ/√d)V, with every map built, in float64."""
    model = base(shape, torch.float64)
    own = made(shape, torch.float64, local=0.7)
    learned = taught(model, own)
    found: dict[str, tuple[Heads, Tensor]] = {}

    def attend(site: Site, step: int, heads: Heads) -> Tensor:
        attended = plain(site, step, heads)
        if site.is_cross:
            found[site.name] = heads, attended
        return attended

    text = learned.encode_text(PROMPTS)
    tokens = [[p for s in spots for p in range(s.start, s.stop)] for spots in text.spots]
    assert [len(each) for each in tokens] == [3, 0, 0, 6]
    results: dict[str, Tensor] = {}
    hooks = [
        module.to_out[0].register_forward_hook(
            lambda _, inputs, __, name=name: results.__setitem__(name, inputs[0])
        )
        for name, module in learned.denoiser.unet.named_modules()
        if name in own.portraits["<my-thing>"].layers
    ]
    outputs(learned, PROMPTS, attend=attend)
    for hook in hooks:
        hook.remove()
    assert set(found) == set(own.portraits["<my-thing>"].layers)
    for name, (heads, attended) in found.items():
        layer = own.portraits["<my-thing>"].layers[name]
        weight = heads.layer.to_k.weight
        count = heads.layer.heads
        query = heads.layer.to_q(heads.hidden)
        keys, values = heads.layer.to_k(heads.context), heads.layer.to_v(heads.context)
        for row, at in enumerate(tokens):
            expected = attended[row].clone()
            for position in at:
                changed = heads.context[row, position]
                keys[row, position] += layer["key_change"].to(weight) @ changed
                values[row, position] += layer["value_change"].to(weight) @ changed
            for head in range(count):
                part = slice(head * heads.channels, (head + 1) * heads.channels)
                q, scale = query[row][:, part], heads.channels**-0.5
                maps = (q @ keys[row][:, part].T * scale).softmax(-1)
                torch.testing.assert_close(attended[row, head], maps @ values[row][:, part])
                if at:
                    word = maps[:, at].sum(-1, keepdim=True)
                    k, v = (layer[each].to(weight)[:, part] for each in ("keys", "values"))
                    expected[head] += 0.7 * word / word.max() * ((q @ k.T * scale).softmax(-1) @ v)
            torch.testing.assert_close(results[name][row], expected.transpose(0, 1).flatten(1))


def test_an_edit_keeps_the_likeness(base: Base, made: Any) -> None:
    """What attends in an edit's place is added to as well."""
    learned = taught(base("sd1"), made("sd1"))
    explicit = outputs(learned, PROMPTS, attend=plain)
    assert torch.equal(explicit, outputs(learned, PROMPTS))
    source = wordbrush.from_seed(learned, "a photo of a cat", seed=3, steps=2)
    result = wordbrush.edit(learned, source, "a photo of <my-thing>")
    assert result.image.size == (32, 32)


def test_spots_follow_rows(base: Base, made: Any) -> None:
    learned = taught(base("sd1"), made("sd1"))
    text = learned.encode_text(PROMPTS)
    assert [len(each) for each in text.spots] == [1, 0, 0, 2]
    assert text[1:].spots == text.spots[1:] and text[[3, 0]].spots == (text.spots[3], text.spots[0])
    assert text[:1].expand(3).spots == text.spots[:1] * 3
    known = base("sd1").encode_text(["a cat"])
    assert known.spots == () and TextEmbeds.concat([known, known]).spots == ()
    assert TextEmbeds.concat([known, text[:1]]).spots == ((), text.spots[0])


def test_trained_text_is_not_kept(base: Base) -> None:
    """Changes that have gradients are computed each time."""
    model = base("sd1")
    unet = shared(model.networks["unet"])
    name = next(site.name for site in model.denoiser.sites((16, 16)) if site.is_cross)
    layer: Any = unet.get_submodule(name)
    change = torch.zeros_like(layer.to_k.weight).requires_grad_()
    liken(unet, {name: [Likeness(None, change, change)]})
    context = torch.randn(1, 5, layer.to_k.in_features)
    cache = TextCache()
    from wordbrush.attention import Spot

    heads = Heads(layer, torch.randn(1, 4, layer.to_q.in_features), context, cache, [[Spot("<x>", 1, 2)]])
    assert heads.key().requires_grad and not len(cache)


# Pictures and masks -----------------------------------------------------------------------------------------


def test_the_thing_is_framed_alone_in_the_middle() -> None:
    picture = Image.new("RGB", (90, 60), "red")
    mask = np.zeros((60, 90), dtype=bool)
    mask[10:20, 60:90] = True
    picture.paste("blue", (60, 10, 90, 20))
    page, region = framed(picture, mask, 64, (1, 2, 3))
    values = np.asarray(page)
    assert page.size == (64, 64) and region.shape == (64, 64)
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    assert abs(len(columns) / 64 - FILLED) < 0.04 and abs(len(rows) / 64 - FILLED / 3) < 0.04
    assert abs(rows.mean() - 31.5) <= 1 and abs(columns.mean() - 31.5) <= 1
    assert tuple(values[0, 0]) == (1, 2, 3) and tuple(values[32, 32]) == (0, 0, 255)
    assert not (values == (255, 0, 0)).all(-1).any()


def test_what_is_behind_the_thing_is_not_seen(base: Base, folder: Callable[[str], str]) -> None:
    model, given = base("sd1"), {"mappers": folder("sd1")}
    mask = segment(SCENE) == 1
    other = np.asarray(render(replace(SCENE, place="moon"))).copy()
    other[mask] = np.asarray(render(SCENE))[mask]
    one, two = (concept(model, each, mask, given) for each in (render(SCENE), Image.fromarray(other)))
    assert torch.equal(one.placeholders["<my-thing>"].vectors[0], two.placeholders["<my-thing>"].vectors[0])


def test_masks_that_do_not_fit(base: Base, folder: Callable[[str], str]) -> None:
    model, given, picture = base("sd1"), {"mappers": folder("sd1")}, render(SCENE)
    with pytest.raises(ImageError, match="a mask of the picture's size, 128 × 128, got 64 × 64"):
        concept(model, picture, np.ones((64, 64), dtype=bool), given)
    with pytest.raises(ImageError, match="black"):
        concept(model, picture, np.zeros((128, 128), dtype=bool), given)
    with pytest.raises(ImageError, match="nowhere more than half white"):
        concept(model, picture, Image.new("L", (128, 128), 100), given)
    assert "covers the whole picture" in doubts(picture, np.ones((128, 128), dtype=bool))[0]
    small = np.zeros((128, 128), dtype=bool)
    small[5:12, 5:9] = True
    assert "7 px" in doubts(picture, small)[0]
    assert doubts(picture, segment(SCENE) == 1) == []


def test_options_that_do_not_fit() -> None:
    for token in ("cat", "<my cat>", "<a> <b>"):
        with pytest.raises(OptionsError, match="one word in angle brackets"):
            settings_of({"token": token})
    with pytest.raises(OptionsError):
        settings_of({"local": 3})


# The mappers ------------------------------------------------------------------------------------------------


def test_mappers_belong_to_a_model(base: Base, folder: Callable[[str], str], tmp_path: Path) -> None:
    model = base("sd1")
    with pytest.raises(
        ModelError, match=r"there are some for pocket alone: give a folder of its own \(--mappers\)"
    ):
        mappers_for(model, settings_of({}))
    with pytest.raises(ModelError, match="got those for tiny SDXL"):
        mappers_for(model, settings_of({"mappers": folder("sdxl")}))
    with pytest.raises(ModelError, match="config.json and model.safetensors"):
        mappers_for(model, settings_of({"mappers": str(tmp_path)}))
    (tmp_path / "config.json").write_text(json.dumps({"base": {}}))
    with pytest.raises(ModelError, match="config.json and model.safetensors"):
        mappers_for(model, settings_of({"mappers": str(tmp_path)}))


@pytest.mark.parametrize("size", [10**7, 10**12, 10**30, -1, 0])
def test_sizes_that_the_file_does_not_have_take_no_memory(size: int, base: Base, tmp_path: Path) -> None:
    mappers(base("sd1")).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden": size}))
    with pytest.raises(ModelError, match="config.json and model.safetensors"):
        mappers_for(base("sd1"), settings_of({"mappers": str(tmp_path)}))


def test_mappers_without_a_local_part(base: Base, tmp_path: Path) -> None:
    mappers(base("sd1"), grid=0).save(tmp_path)
    own = concept(base("sd1"), render(SCENE), segment(SCENE) == 1, {"mappers": str(tmp_path)})
    layers = own.portraits["<my-thing>"].layers
    assert all(set(each) == {"key_change", "value_change"} for each in layers.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gate", [0.0, 0.8])
def test_a_lesson_teaches_the_mappers_alone(shape: str, gate: float, base: Base) -> None:
    model = base(shape)
    learning = mappers(model).requires_grad_(True)
    before = model.hash
    eye = Eye.load()
    pages = [eye.framed(render(SCENE), segment(SCENE) == 1)] * 2
    seen = eye.see([page for page, _ in pages], [region for _, region in pages], LEVELS)
    lesson = Lesson(
        levels=seen.levels,
        latents=torch.randn(2, 4, 16, 16),
        captions=["a photo of {}", "{} on a beach"],
        noise=torch.randn(2, 4, 16, 16),
        timesteps=torch.tensor([100, 700]),
        emphasis=torch.ones(2, 16, 16),
        weights=torch.ones(2),
        maps=seen.maps,
        shown=seen.region.float(),
    )
    room = Classroom(model, learning, rows=3)
    loss = room.loss(lesson, words=3, gate=gate)
    loss.backward()
    local = ("parts.", "places", "local.")
    for name, parameter in learning.named_parameters():
        is_learned = bool(gate) or not name.startswith(local)
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == is_learned, name
    assert model.hash == before and not any(each.requires_grad for each in model.denoiser.unet.parameters())


def test_a_lesson_s_loss_is_that_of_the_concept(base: Base, folder: Callable[[str], str], made: Any) -> None:
    """What is learned with is what is applied: the same network says the same."""
    model = base("sd1")
    own = Mappers.load(Path(folder("sd1")))
    eye = Eye.load()
    page, region = eye.framed(render(SCENE), segment(SCENE) == 1)
    seen = eye.see([page], [region], LEVELS)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    lesson = Lesson(
        seen.levels,
        torch.zeros(1, 4, 16, 16),
        ["a {} on a beach"],
        noise,
        torch.tensor([999]),
        torch.ones(1, 16, 16),
        torch.ones(1),
        seen.maps,
        seen.region.float(),
    )
    with torch.no_grad():
        loss = Classroom(model, own, rows=1).loss(lesson, 3, gate=0.8, penalty=0.0, part_penalty=0.0)
        learned = taught(model, made("sd1"))
        from wordbrush.schedule import training_alphas_cumprod

        sigma = (1 - training_alphas_cumprod(model.schedule_config)[999]).sqrt().float()
        text = Conditioning(learned.encode_text(["a <my-thing> on a beach"]))
        said = learned.denoiser.output(sigma * noise, 999, text)
    assert float(loss) == pytest.approx(float((said - noise).square().mean()), rel=1e-3)


def test_networks_that_were_read_judge_nothing() -> None:
    assert READS["elite"] == {"clip"}
    assert set(METHODS) < set(READS) and all(not READS[method] for method in METHODS)
