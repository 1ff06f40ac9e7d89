"""Rendered scenes whose every edit has a true answer: any editing method after any inversion."""
