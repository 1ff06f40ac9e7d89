"""Scores of pictures, by what they compare."""
