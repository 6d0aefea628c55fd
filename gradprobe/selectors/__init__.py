"""Selections of visual tokens that need no training, as functions of the tokens."""
