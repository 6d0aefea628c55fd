"""Selectors of visual tokens, one a file, and plans of them."""
