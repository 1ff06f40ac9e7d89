"""The networks that score pictures."""
