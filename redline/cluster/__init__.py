"""Archives on many machines: a source of recordings -> transcripts in a folder or bucket, which says what is done.

Nothing here decides about audio, text or batches: recordings go through the `Session`s and `Scheduler`s of the library.
"""
