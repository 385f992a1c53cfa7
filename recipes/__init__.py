"""Recipes of bundled models, beside the library: `redline train NAME` finds their TOML files here."""
