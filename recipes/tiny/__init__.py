"""What only a few hours of speech need: the extension of the recipes `tiny`, `tiny-multi` and `tiny-plus`."""
