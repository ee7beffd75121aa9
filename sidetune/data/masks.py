"""Masks."""

IGNORED = -1
