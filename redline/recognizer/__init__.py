"""Models joined with features, decoding and text: the classes behind the protocol `Recognizer`."""

from redline.recognizer.ar import ArRecognizer
from redline.recognizer.ctc import CtcRecognizer
from redline.recognizer.nar import NarRecognizer

__all__ = ["ArRecognizer", "CtcRecognizer", "NarRecognizer"]
