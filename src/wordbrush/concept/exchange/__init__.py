"""Files of learned concepts, whoever wrote them."""

import os

from wordbrush.concept.concept import Concept
from wordbrush.model import Model


def read(path: str | os.PathLike[str], model: Model) -> Concept:
    """The concept in a file, for this model. Raises `ConceptError`."""
    return Concept.load(path)
