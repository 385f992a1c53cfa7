"""Models joined with features, decoding and text: the classes behind the protocol `Recognizer`."""

from redline.recognizer.edit import EditRecognizer
from redline.recognizer.generate import GenerateRecognizer

__all__ = ["EditRecognizer", "GenerateRecognizer"]
