"""Office Open XML (ECMA-376): a document for Word and LibreOffice, in docx, with the edits as tracked changes.

A docx is a zip of a few XML files. They are written here, without a library, because none writes tracked changes.
"""

from __future__ import annotations

import html
import io
import zipfile
from collections.abc import Iterator
from itertools import count

from redline.formats.document import Paragraph, facts_line, paragraphs, warning_lines
from redline.formats.format import RenderOptions, plain_line, speaker_label
from redline.types import Transcript

CHANGES_AUTHOR = "Redline"
"""Who made the tracked changes. They have no date, so that a transcript is always the same file."""
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml"
_CONTENT_TYPES = f"""{_XML}<Types xmlns="{_PACKAGE}/content-types">\
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>\
<Override PartName="/word/document.xml" ContentType="{_TYPE}.document.main+xml"/>\
<Override PartName="/word/styles.xml" ContentType="{_TYPE}.styles+xml"/></Types>"""
_STYLES = f"""{_XML}<w:styles {_WORD}><w:docDefaults>\
<w:rPrDefault><w:rPr><w:rFonts w:ascii="Calibri" w:hAnsi="Calibri"/><w:sz w:val="22"/></w:rPr></w:rPrDefault>\
<w:pPrDefault><w:pPr><w:spacing w:after="120"/></w:pPr></w:pPrDefault></w:docDefaults>\
<w:style w:type="paragraph" w:default="1" w:styleId="Normal"><w:name w:val="Normal"/></w:style>\
<w:style w:type="paragraph" w:styleId="Title"><w:name w:val="Title"/><w:basedOn w:val="Normal"/>\
<w:rPr><w:b/><w:sz w:val="36"/></w:rPr></w:style>\
<w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/><w:basedOn w:val="Normal"/>\
<w:pPr><w:keepNext/><w:spacing w:before="240"/><w:outlineLvl w:val="0"/></w:pPr>\
<w:rPr><w:b/><w:sz w:val="26"/></w:rPr></w:style></w:styles>"""


def render_docx(transcript: Transcript, options: RenderOptions) -> bytes:
    """The recording's name, model, language and duration, a paragraph for each speaker turn or segment, the warnings.

    With `show_edits` the edits are tracked changes: the text when all are accepted, the draft when all are rejected.
    """
    numbers = count(1)
    blocks = [_paragraph(_run(options.name), "Title"), _paragraph(_run(facts_line(transcript)))]
    blocks += [_paragraph(_words(each, numbers)) for each in paragraphs(transcript, options.show_edits)]
    if transcript.warnings:
        blocks.append(_paragraph(_run("Warnings"), "Heading1"))
        blocks += [_paragraph(_run(f"\N{EN DASH} {line}")) for line in warning_lines(transcript)]
    return _zipped(
        {
            "[Content_Types].xml": _CONTENT_TYPES,
            "_rels/.rels": _relationship("officeDocument", "word/document.xml"),
            "word/document.xml": f"{_XML}<w:document {_WORD}><w:body>{''.join(blocks)}</w:body></w:document>",
            "word/_rels/document.xml.rels": _relationship("styles", "styles.xml"),
            "word/styles.xml": _STYLES,
        }
    )


def _words(paragraph: Paragraph, numbers: Iterator[int]) -> str:
    """The runs of a paragraph: its label, and each change behind the space that separates it from what is before."""
    runs = []
    if paragraph.start is not None:
        named = "" if paragraph.speaker is None else f" {speaker_label(paragraph.speaker)}:"
        runs.append(_run(f"[{paragraph.start}]{named}", "<w:rPr><w:b/></w:rPr>"))
    for change in paragraph.changes:
        space = " " if runs else ""
        if change.op == "keep":
            runs.append(_run(change.text, space=space))
            continue
        by = f'w:author="{CHANGES_AUTHOR}"'
        if change.draft:
            deleted = _run(change.draft, space=space, tag="delText")
            runs.append(f'<w:del w:id="{next(numbers)}" {by}>{deleted}</w:del>')
        if change.text:
            runs.append(f'<w:ins w:id="{next(numbers)}" {by}>{_run(change.text, space=space)}</w:ins>')
    return "".join(runs)


def _run(text: str, properties: str = "", *, space: str = "", tag: str = "t") -> str:
    words = html.escape(plain_line(text), quote=False)
    return f'<w:r>{properties}<w:{tag} xml:space="preserve">{space}{words}</w:{tag}></w:r>'


def _paragraph(runs: str, style: str = "Normal") -> str:
    return f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr>{runs}</w:p>'


def _relationship(kind: str, target: str) -> str:
    link = f'<Relationship Id="rId1" Type="{_OFFICE}/{kind}" Target="{target}"/>'
    return f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">{link}</Relationships>'


def _zipped(parts: dict[str, str]) -> bytes:
    """The same bytes on every machine: one date, and stored, since releases of zlib compress differently."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), text)
    return packed.getvalue()
