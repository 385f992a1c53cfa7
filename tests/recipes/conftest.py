"""What tests of recipes share with those of training."""

from tests.train.conftest import base, books, corpus, manifest, model

__all__ = ["base", "books", "corpus", "manifest", "model"]
