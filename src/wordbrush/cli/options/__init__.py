"""Flags: a method's, from its `Options`; and those that commands share."""
