"""Steps after a transcript: language models that summarise it, and messages that carry the result out."""
