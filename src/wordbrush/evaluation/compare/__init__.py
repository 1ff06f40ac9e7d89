"""One picture edited by several methods, side by side."""
