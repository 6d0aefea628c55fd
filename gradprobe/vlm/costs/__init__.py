"""Cost of a pruned vision-language model up to its first token."""
