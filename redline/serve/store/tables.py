"""Tables of the server's database, and the migrations that bring an older database to them.

Times are seconds since 1970, as `time.time` gives them. `owner` is the name of the API key that a row belongs to.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")

version_table = Table("schema_version", metadata, Column("version", Integer, nullable=False))

jobs_table = Table(
    "jobs",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),  # jobs are done in this order
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("url", Text),
    Column("sha256", String(64)),  # of the recording; None until its URL was fetched
    Column("options", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempts", Integer, nullable=False, default=0),
    Column("token", Integer, nullable=False, default=0),  # fencing: grows with each lease and each cancellation
    Column("lease_until", Double),
    Column("worker", Text),
    Column("done_s", Double, nullable=False, default=0.0),
    Column("known_s", Double, nullable=False, default=0.0),
    Column("error_code", Text),
    Column("error_message", Text),
    Index("jobs_by_state", "state", "number"),
    Index("jobs_by_owner", "owner", "number"),
    sqlite_autoincrement=True,
)

idempotency_keys_table = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_sha256", String(64), nullable=False),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
)

answers_table = Table(
    "answers",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("window_id", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("start", Integer, nullable=False),  # in samples at 16 kHz
    Column("end", Integer, nullable=False),
    Column("answer", Text, nullable=False),
)

uploads_table = Table(
    "uploads",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("sha256", String(64)),  # what the client says that the whole has
    Column("received", BigInteger, nullable=False, default=0),
    Column("expires_at", Double, nullable=False),
)

transcripts_table = Table(
    "transcripts",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("job_id", ForeignKey("jobs.id", ondelete="SET NULL"), unique=True),
    Column("name", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("sha256", String(64)),
    Column("duration_s", Double, nullable=False),
    Column("language", Text),
    Column("model", Text, nullable=False),
    Column("has_audio", Boolean, nullable=False),
    Column("body", Text, nullable=False),  # JSON of `Transcript.to_dict(all_edits=True)`, as the model wrote it
    Index("transcripts_by_owner", "owner", "number"),
    sqlite_autoincrement=True,
)

segments_table = Table(
    "segments",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("transcript_id", ForeignKey("transcripts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("segment", Integer, nullable=False),  # its place in the transcript, from 0
    Column("start_s", Double, nullable=False),
    Column("end_s", Double, nullable=False),
    Column("speaker", Text),
    Column("text", Text, nullable=False),  # as it was corrected
    sqlite_autoincrement=True,
)

speaker_names_table = Table(
    "speaker_names",
    metadata,
    Column("transcript_id", ForeignKey("transcripts.id", ondelete="CASCADE"), primary_key=True),
    Column("label", String(255), primary_key=True),
    Column("name", Text, nullable=False),
)

corrections_table = Table(
    "corrections",
    metadata,
    Column("transcript_id", ForeignKey("transcripts.id", ondelete="CASCADE"), primary_key=True),
    Column("segment", Integer, primary_key=True),
    Column("word", Integer, primary_key=True),  # the first that is replaced, from 0
    Column("count", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("corrected_at", Double, nullable=False),
)

pipeline_runs_table = Table(
    "pipeline_runs",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("pipeline", Text, nullable=False),
    Column("state", String(16), nullable=False),  # queued, running, done or failed
    Column("token", Integer, nullable=False, default=0),  # fencing, as of jobs
    Column("lease_until", Double),
    Column("outcome", Text),  # JSON of what the steps gave so far
    Index("pipeline_runs_by_state", "state", "number"),
    sqlite_autoincrement=True,
)

deliveries_table = Table(
    "deliveries",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("event_id", String(64), nullable=False, unique=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), index=True),
    Column("url", Text, nullable=False),
    Column("secret_env", Text, nullable=False),
    Column("allow_hosts", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due_at", Double, nullable=False),
    Column("state", String(16), nullable=False),  # waiting, delivered or dead
    Column("seen", Text),  # what the last attempt met
    Index("deliveries_by_state", "state", "due_at"),
    sqlite_autoincrement=True,
)

MIGRATIONS: tuple[tuple[str, ...], ...] = ()
"""SQL statements from each version of the schema to the next; a new database is made of the tables above at once."""
