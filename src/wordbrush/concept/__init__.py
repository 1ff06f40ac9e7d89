"""Learned concepts: what training makes, as values; models with concepts applied; the files that other tools use."""

from wordbrush.concept.applied import Use, applied, doubts
from wordbrush.concept.concept import Base, Concept, Placeholder, TrainingPicture
from wordbrush.concept.portrait import Portrait

__all__ = ["Base", "Concept", "Placeholder", "Portrait", "TrainingPicture", "Use", "applied", "doubts"]
