"""What tests of recipes share with those of training."""

from tests.train.conftest import books, corpus

__all__ = ["books", "corpus"]
