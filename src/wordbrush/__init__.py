"""Edit pictures with words."""
