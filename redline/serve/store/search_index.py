"""Full-text index of the archive: FTS5 of SQLite, or tsvector of Postgres; words without case and diacritics in both.

Text goes in as folded words, so that both databases cut and compare it alike. Scripts without spaces between words are
indexed sign by sign, and a query's signs are looked for side by side.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Integer, MetaData, Table, Text, delete, func, literal_column
from sqlalchemy.dialects.postgresql import TSVECTOR

from redline.serve.store.tables import segments_table

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
_PHRASES = re.compile(r'"([^"]*)"|(\S+)')
SNIPPET_WORDS = 12
"""Words of a snippet in front of and behind the first that was found."""

_fts = Table("segment_index", MetaData(), Column("rowid", Integer), Column("words", Text))
_tsvectors = Table("segment_index", MetaData(), Column("number", Integer), Column("words", TSVECTOR))


def create(connection: Connection) -> None:
    """Make the index of `segments`."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("CREATE VIRTUAL TABLE segment_index USING fts5(words, tokenize = 'unicode61')")
    else:
        connection.exec_driver_sql(
            "CREATE TABLE segment_index (number bigint PRIMARY KEY REFERENCES segments ON DELETE CASCADE, "
            "words tsvector NOT NULL)"
        )
        connection.exec_driver_sql("CREATE INDEX segment_words ON segment_index USING gin (words)")


def add(connection: Connection, texts: Mapping[int, str]) -> None:
    """Index segments by their numbers."""
    rows = {number: " ".join(folded_words(each)) for number, each in texts.items()}
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(_fts.insert(), [{"rowid": number, "words": words} for number, words in rows.items()])
    else:
        for number, words in rows.items():
            vector = func.to_tsvector("simple", words)
            connection.execute(_tsvectors.insert().values(number=number, words=vector))


def remove(connection: Connection, numbers: Collection[int]) -> None:
    """Forget segments."""
    key = _fts.c.rowid if connection.dialect.name == "sqlite" else _tsvectors.c.number
    ordered = sorted(numbers)
    for at in range(0, len(ordered), 500):  # SQLite bounds the values of a statement
        connection.execute(delete(key.table).where(key.in_(ordered[at : at + 500])))


def purge(connection: Connection) -> None:
    """Merge the parts of SQLite's index into one, which drops what was removed."""
    connection.exec_driver_sql("INSERT INTO segment_index(segment_index) VALUES ('optimize')")


def matching(connection: Connection, query: str) -> ColumnElement[bool] | None:
    """The condition on segments that they have all phrases of a query; None for a query without words."""
    phrases = phrases_of(query)
    if not phrases:
        return None
    number = segments_table.c.number
    if connection.dialect.name == "sqlite":
        quoted = " ".join('"' + " ".join(phrase) + '"' for phrase in phrases)
        found = _fts.select().with_only_columns(_fts.c.rowid).where(literal_column("segment_index").op("MATCH")(quoted))
        return number.in_(found)
    condition: ColumnElement[Any] = func.phraseto_tsquery("simple", " ".join(phrases[0]))
    for phrase in phrases[1:]:
        condition = condition.op("&&")(func.phraseto_tsquery("simple", " ".join(phrase)))
    found = _tsvectors.select().with_only_columns(_tsvectors.c.number).where(_tsvectors.c.words.op("@@")(condition))
    return number.in_(found)


def phrases_of(query: str) -> list[list[str]]:
    """What a query asks for: words, and phrases in quotes, each as the folded words that stand side by side."""
    parts = (quoted or word for quoted, word in _PHRASES.findall(query))
    return [words for part in parts if (words := folded_words(part))]


def fold_text(text: str) -> str:
    """Without case and diacritics: "Café" is "cafe"."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")


def folded_words(text: str) -> list[str]:
    """The words of a text as they are indexed."""
    return _WORD.findall(fold_text(text))


def snippet(text: str, query: str) -> tuple[str, list[tuple[int, int]]]:
    """The part of a text around what was found, and where in it the words that were asked for are, in characters."""
    words = [(folded_words(match.group()), *match.span()) for match in _WORD.finditer(text)]
    flat = [(word, at) for at, (own, _, _) in enumerate(words) for word in own]
    hits: set[int] = set()
    for phrase in phrases_of(query):
        for first in range(len(flat) - len(phrase) + 1):
            if [word for word, _ in flat[first : first + len(phrase)]] == phrase:
                hits |= {at for _, at in flat[first : first + len(phrase)]}
    middle = min(hits, default=0)
    first, last = middle - SNIPPET_WORDS, middle + SNIPPET_WORDS
    begin, before = (words[first][1], "… ") if first > 0 else (0, "")
    end, after = (words[last][2], " …") if last < len(words) - 1 else (len(text), "")
    move = len(before) - begin
    marks = [(words[at][1] + move, words[at][2] + move) for at in sorted(hits) if first <= at <= last]
    return before + text[begin:end] + after, marks
