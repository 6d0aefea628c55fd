"""Built-in throttles, the action of weights on tokens: one file each."""

FIRST = ("gather", "zero", "scale", "vpnoise", "scale-vpnoise", "attention", "dynamicvit", "mean")  # in listings
