"""All that decides about the transcript of a recording, but the recording itself and the model's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redline import itn
from redline.audio import AudioOptions
from redline.diarize.diarizer import Diarizer
from redline.diarize.embedder import SpeakerEmbedder
from redline.diarize.options import SpeakerOptions
from redline.longform.resumed import AnswerStore, ResumedSession
from redline.longform.session import Session, SessionOptions
from redline.types import ClipLimits, Task, Transcript


@dataclass(frozen=True)
class RecordingPlan:
    """How recordings are read, cut and asked about; it may be pickled, so that another process cuts them."""

    limits: ClipLimits
    task: Task
    """What the recognizer is asked."""
    options: SessionOptions
    model: str
    """Its name."""
    speakers: SpeakerOptions | None = None
    """Who may be heard, where speakers are told apart by their voices."""
    audio: AudioOptions = AudioOptions()
    digits: bool = False
    """Inverse text normalisation."""

    @property
    def is_whole(self) -> bool:
        """Whether all windows of a recording have to be recognized in one place, in their order."""
        return self.limits.needs_previous or self.speakers is not None

    def session(
        self, embedder: Callable[[], SpeakerEmbedder] | None = None, answers: AnswerStore | None = None
    ) -> Session:
        """A session for one recording.

        Without the `embedder` it only cuts, and is given a diarizer (`diarizer`) before its first request.
        """
        diarizer = None if embedder is None else self.diarizer(embedder)
        if answers is None:
            return Session(self.limits, self.task, self.options, model=self.model, diarizer=diarizer)
        return ResumedSession(
            self.limits, self.task, self.options, model=self.model, diarizer=diarizer, answers=answers
        )

    def diarizer(self, embedder: Callable[[], SpeakerEmbedder]) -> Diarizer | None:
        """Who hears the voices of one recording, where they are told apart so."""
        return None if self.speakers is None else Diarizer(embedder(), self.speakers)

    def finished(self, transcript: Transcript) -> Transcript:
        """The transcript as it is asked for."""
        return itn.with_itn(transcript, self.task.language) if self.digits else transcript
