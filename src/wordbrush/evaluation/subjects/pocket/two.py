"""Two subjects in one picture: by a training of both, or by what was learned of each.

DIR/two/<way>/<first>+<second>/<place>/      pictures of "a … next to a … on the moon"
DIR/two/<way>/<first>+<second>.json          what they are made with: a part is done when this says so
"""

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush import images
from wordbrush.concept import Concept, Use, applied
from wordbrush.concept.merging import merge
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.judges.reader import likeliest
from wordbrush.evaluation.metrics import similarity
from wordbrush.evaluation.subjects.pocket import making
from wordbrush.evaluation.subjects.pocket.making import Bench, Part
from wordbrush.evaluation.subjects.pocket.variants import RARE, VARIANTS, Variant, known
from wordbrush.evaluation.subjects.pocket.world import PAIR_PLACES, Pair, pairs
from wordbrush.model import Model
from wordbrush.progress import Progress
from wordbrush.records import fingerprint
from wordbrush.training import pictures
from wordbrush.training.pictures import Pictures

SECOND = "zwx"
"""The rare word of a second subject, where the first has `RARE`."""

_DREAMBOOTH = "dreambooth-no-prior"
_CUSTOM = "custom-diffusion"
_REAL = 20  # pictures of each class that a training of both is given
_SEED = 5000
_TRUTHS = 6

Learned = Generator[Progress, None, Model]


@dataclass(frozen=True)
class Way:
    """A way to have two subjects in one picture.

    of: the way to teach one that it builds on; "" for the references. learn: makes the model, or None for true
    renderings. words: what stands for the two in a prompt.
    """

    key: str
    label: str
    of: str
    learn: Callable[[Bench, Pair], Learned] | None
    words: Callable[[Pair], tuple[str, str]]

    @property
    def is_known(self) -> bool:
        """Whether what it needs is there."""
        return not self.of or self.of in known()

    @property
    def reads(self) -> frozenset[str]:
        """The judges that its method read."""
        found = known().get(self.of)
        return frozenset() if found is None else found.reads


def _by_class(pair: Pair) -> tuple[str, str]:
    return pair.first.class_word, pair.second.class_word


def _by_rare_words(pair: Pair) -> tuple[str, str]:
    return f"{RARE} {pair.first.class_word}", f"{SECOND} {pair.second.class_word}"


def _spoken(of: str) -> Callable[[Pair], tuple[str, str]]:
    def words(pair: Pair) -> tuple[str, str]:
        variant = next(each for each in VARIANTS if each.key == of)
        first, second = (variant.words(subject) for subject in pair.both)
        return first, second

    return words


def _base(bench: Bench, pair: Pair) -> Learned:
    yield from ()
    return bench.model


def _beside(of: str) -> Callable[[Bench, Pair], Learned]:
    """Both concepts applied beside one another: their changes add up."""

    def learn(bench: Bench, pair: Pair) -> Learned:
        concepts = yield from _each(bench, pair, of)
        return applied(bench.model, [Use(concept) for concept in concepts])

    return learn


def _each(bench: Bench, pair: Pair, of: str) -> Generator[Progress, None, list[Concept]]:
    """The concepts of the two, trained if they are not there."""
    found: list[Concept] = []
    for subject in pair.both:
        concept, _ = yield from making.taught(bench, known()[of], subject)
        found.append(concept)
    return found


def _dreambooth(bench: Bench, pair: Pair) -> Learned:
    """One training on the pictures of both, each called by its caption, with as many steps as both trainings."""
    names = [f"a {words}" for words in _by_rare_words(pair)]
    joined = _captioned([pictures.read(folder) for folder in _given(bench, pair)], names)
    return (
        yield from _trained(bench, pair, _DREAMBOOTH, joined, {"prompt": names[0]}, "dreambooth-two", times=2)
    )


def _joint(bench: Bench, pair: Pair) -> Learned:
    """One training on the pictures of both, with a word for each, and real pictures of both classes."""
    real = [picture for subject in pair.both for picture in subject.category("learning", _REAL)]
    own = [known()[_CUSTOM].told(subject, Path()) for subject in pair.both]
    told: dict[str, Any] = {name: tuple(each[name] for each in own) for name in ("token", "class_prompt")}
    told["class_folder"] = str(making.captioned(bench.folder / "given" / pair.name / "class", real))
    found = pictures.read(_given(bench, pair))
    return (yield from _trained(bench, pair, _CUSTOM, found, told, "joint", times=2))


def _merged(bench: Bench, pair: Pair) -> Learned:
    """What was learned of each, as one concept in closed form."""
    concepts = yield from _each(bench, pair, _CUSTOM)
    merged = yield from merge(bench.model, concepts)
    return applied(bench.model, [Use(merged.concept)])


def _sequential(bench: Bench, pair: Pair) -> Learned:
    """The second subject, taught to the model that has learned the first."""
    first, _ = yield from making.taught(bench, known()[_CUSTOM], pair.first)
    _, given = _given(bench, pair)
    told = known()[_CUSTOM].told(pair.second, given.parent)
    model = applied(bench.model, [Use(first)])
    return (yield from _trained(bench, pair, _CUSTOM, pictures.read(given), told, "sequential", on=model))


def _given(bench: Bench, pair: Pair) -> list[Path]:
    """The folders of both subjects' pictures."""
    return [bench.folder / "given" / subject.name / "pictures" for subject in pair.both]


def _captioned(found: Sequence[Pictures], captions: Sequence[str]) -> Pictures:
    """The pictures of several folders as one thing's, each with its folder's caption."""
    first = found[0]
    return replace(
        first,
        images=tuple(image for each in found for image in each.images),
        records=tuple(record for each in found for record in each.records),
        captions=tuple(caption for each, caption in zip(found, captions, strict=True) for _ in each.images),
        notices=(),
    )


def _trained(
    bench: Bench,
    pair: Pair,
    variant: str,
    found: Pictures,
    told: Mapping[str, Any],
    way: str,
    *,
    times: int = 1,
    on: Model | None = None,
) -> Learned:
    """The model that a training makes, whose concept is kept. times: how many times a variant's own steps. on: the
    model that is taught."""
    path = bench.folder / "two" / way / f"{pair.name}.concept"
    named = making.options(bench, known()[variant], told, times)
    drawn = bench.folder / "given" / pair.name / "drawn"
    method = known()[variant].method
    concept, _ = yield from making.trained(on or bench.model, method, found, named, path, drawn)
    return applied(bench.model, [Use(concept)])


_WAYS = (
    Way("two-truth", "true renderings", "", None, _by_class),
    Way("two-base", "the model as it was, the classes alone", "", _base, _by_class),
    Way("joint", "Custom Diffusion, joint training", _CUSTOM, _joint, _spoken(_CUSTOM)),
    Way("merged", "Custom Diffusion, merged", _CUSTOM, _merged, _spoken(_CUSTOM)),
    Way("sequential", "Custom Diffusion, one after the other", _CUSTOM, _sequential, _spoken(_CUSTOM)),
    Way("added", "Custom Diffusion, both applied", _CUSTOM, _beside(_CUSTOM), _spoken(_CUSTOM)),
    Way(
        "two-words",
        "Textual Inversion, both words",
        "textual-inversion",
        _beside("textual-inversion"),
        _spoken("textual-inversion"),
    ),
    Way(
        "dreambooth-two",
        "DreamBooth without the prior loss, one training of both",
        _DREAMBOOTH,
        _dreambooth,
        _by_rare_words,
    ),
)
WAYS: Mapping[str, Way] = {way.key: way for way in _WAYS}
"""What is compared, in the order of the table."""


def ways(variants: Sequence[Variant]) -> tuple[Way, ...]:
    """The ways that can be made of these ways to teach one."""
    keys = {variant.key for variant in variants}
    return tuple(way for way in WAYS.values() if way.is_known and (not way.of or way.of in keys))


def parts(bench: Bench) -> list[Part]:
    """What is to be made of two subjects."""
    own = {subject.name for subject in bench.chosen or bench.subjects}
    return [
        Part(
            f"{pair.name}: {way.label}",
            _note(bench, way, pair),
            _mark(bench, way, pair),
            partial(_made, bench, way, pair),
            _after(bench, way, pair),
        )
        for pair in pairs(bench.subjects)
        if all(subject.name in own for subject in pair.both)
        for way in ways(bench.variants)
    ]


def _after(bench: Bench, way: Way, pair: Pair) -> dict[Path, str]:
    """The parts of either subject, by the way to teach one that this one builds on."""
    variant = known().get(way.of)
    if variant is None:
        return {}
    return {bench.note(variant, subject): bench.made(variant, subject) for subject in pair.both}


def folder(bench: Bench, way: Way, pair: Pair) -> Path:
    """Where a pair's pictures are."""
    return bench.folder / "two" / way.key / pair.name


def _note(bench: Bench, way: Way, pair: Pair) -> Path:
    return bench.folder / "two" / way.key / f"{pair.name}.json"


def _mark(bench: Bench, way: Way, pair: Pair) -> str:
    """Changes with all that decides what is made."""
    learned = [bench.learned(known()[way.of], subject) for subject in pair.both] if way.of else []
    return fingerprint(way.key, way.words(pair), learned, asdict(bench.counts), bench.model.hash)


def _made(bench: Bench, way: Way, pair: Pair) -> Generator[Progress, None, Mapping[str, Any]]:
    place, counts = folder(bench, way, pair), bench.counts
    shutil.rmtree(place, ignore_errors=True)  # of other counts
    if way.learn is None:
        for where in PAIR_PLACES:
            true = pair.truths(where, counts.pictures, 50)
            making.write(zip(_paths(place / where, counts.pictures), true, strict=True))
        return {}
    model = yield from way.learn(bench, pair)
    first, second = way.words(pair)
    wanted: list[tuple[Path, str, int]] = []
    for i, where in enumerate(PAIR_PLACES):
        text = pair.text(where).format(first=first, second=second)
        text = text.replace("a <", "<") if _spoken_whole(way) else text
        paths = _paths(place / where, counts.pictures)
        wanted += [(path, text, _SEED + 10 * i + k) for k, path in enumerate(paths)]
    made = yield from making.sampled(model, [(text, seed) for _, text, seed in wanted], counts.steps)
    making.write(zip([path for path, _, _ in wanted], made, strict=True))
    return {}


def _spoken_whole(way: Way) -> bool:
    return way.of in known() and known()[way.of].whole


def _paths(place: Path, count: int) -> list[Path]:
    return [place / f"{k:02}.png" for k in range(count)]


# Scores ----------------------------------------------------------------------------------------------------


def score(bench: Bench, judges: Judges) -> dict[str, dict[str, Mapping[str, float | None]]]:
    """The scores of each way for each pair that is made.

    text_alignment: of the prompt with the classes in place of the words. image_alignment: with the real pictures of
    either subject, the mean of both. near: by the encoder, with true renderings of the prompt. scene: the share in
    which the reader sees the place.
    """
    assert judges.reader is not None, "the truth needs the world reader"
    found: dict[str, dict[str, Mapping[str, float | None]]] = {}
    for way in WAYS.values():
        for pair in pairs(bench.subjects):
            if way.is_known and making.noted(_note(bench, way, pair)).get("made") == _mark(bench, way, pair):
                found.setdefault(way.key, {})[pair.name] = _scored(bench, way, pair, judges)
    return found


def _scored(bench: Bench, way: Way, pair: Pair, judges: Judges) -> dict[str, float | None]:
    first, second = _by_class(pair)
    text: list[float] = []
    image: list[float] = []
    near: list[float] = []
    right: list[float] = []
    assert judges.reader is not None
    real = [judges.clip.images(subject.pictures()) for subject in pair.both]
    for where in PAIR_PLACES:
        made = list(_opened(folder(bench, way, pair) / where))
        vectors = judges.clip.images(made)
        words = judges.clip.texts([pair.text(where).format(first=first, second=second)])
        text.append(float(similarity.text_alignment(vectors, words.expand(len(made), -1)).mean()))
        image += [float(similarity.image_alignment(vectors, own).mean()) for own in real]
        true = judges.encoder.images(pair.truths(where, _TRUTHS))
        near.append(float((judges.encoder.images(made) @ true.T).mean()))
        right += [float(likeliest(seen.place) == where) for seen in judges.reader.read(made)]
    means = {
        name: sum(values) / len(values)
        for name, values in (
            ("text_alignment", text),
            ("image_alignment", image),
            ("near", near),
            ("scene", right),
        )
    }
    return dict(means)


def _opened(place: Path) -> Iterator[Image.Image]:
    for path in sorted(place.glob("*.png")):
        yield images.load(path)
