"""Names of languages: what people write (`English`, `en-US`, `eng`, `auto`) -> the code in the package (`en`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from redline.errors import UnsupportedTaskError

AUTO = "auto"
"""Let the model find the language."""

_TABLE = """
af afr Afrikaans; am amh Amharic; ar ara Arabic; as asm Assamese; az aze Azerbaijani; ba bak Bashkir; be bel Belarusian
bg bul Bulgarian; bn ben Bengali; bo bod/tib Tibetan; br bre Breton; bs bos Bosnian; ca cat Catalan; cs ces/cze Czech
cy cym/wel Welsh; da dan Danish; de deu/ger German/Deutsch; el ell/gre Greek; en eng English; eo epo Esperanto
es spa Spanish/Español/Castilian; et est Estonian; eu eus/baq Basque; fa fas/per Persian/Farsi; fi fin Finnish
fo fao Faroese; fr fra/fre French/Français; ga gle Irish; gl glg Galician; gu guj Gujarati; ha hau Hausa
haw haw Hawaiian; he heb Hebrew; hi hin Hindi; hr hrv Croatian; ht hat Haitian Creole/Haitian; hu hun Hungarian
hy hye/arm Armenian; id ind Indonesian; is isl/ice Icelandic; it ita Italian/Italiano; ja jpn Japanese/日本語
jw jav Javanese; ka kat/geo Georgian; kk kaz Kazakh; km khm Khmer; kn kan Kannada; ko kor Korean; la lat Latin
lb ltz Luxembourgish; ln lin Lingala; lo lao Lao; lt lit Lithuanian; lv lav Latvian; mg mlg Malagasy; mi mri/mao Maori
mk mkd/mac Macedonian; ml mal Malayalam; mn mon Mongolian; mr mar Marathi; ms msa/may Malay; mt mlt Maltese
my mya/bur Burmese/Myanmar; ne nep Nepali; nl nld/dut Dutch/Flemish/Nederlands; nn nno Nynorsk; no nor Norwegian
oc oci Occitan; pa pan Punjabi; pl pol Polish; ps pus Pashto; pt por Portuguese/Português; ro ron/rum Romanian/Moldovan
ru rus Russian; sa san Sanskrit; sd snd Sindhi; si sin Sinhala; sk slk/slo Slovak; sl slv Slovenian; sn sna Shona
so som Somali; sq sqi/alb Albanian; sr srp Serbian; su sun Sundanese; sv swe Swedish; sw swa Swahili; ta tam Tamil
te tel Telugu; tg tgk Tajik; th tha Thai; tk tuk Turkmen; tl tgl Tagalog/Filipino; tr tur Turkish; tt tat Tatar
uk ukr Ukrainian; ur urd Urdu; uz uzb Uzbek; vi vie Vietnamese; yi yid Yiddish; yo yor Yoruba; yue yue Cantonese
zh zho/chi/cmn Chinese/Mandarin/中文
"""
_ROWS = [row.split(" ", 2) for row in re.split(r"[;\n]\s*", _TABLE.strip())]
NAMES = {code: names.split("/")[0] for code, _, names in _ROWS}
"""Code -> English name."""
_CODES = {
    name.casefold(): code for code, longer, names in _ROWS for name in (code, *longer.split("/"), *names.split("/"))
}
_LOCALE = re.compile(r"([a-z]{2,3})(?:[-_.@][a-z0-9_.@-]*)?")


def code(name: str | None, known: Sequence[str] = ()) -> str | None:
    """The code of a language that is named by its code, its name or a locale; None for "auto", "" and None.

    `known` are the codes that are allowed where it is asked. A well-formed code that is not in the table is taken as it
    is: the model decides. Raises `UnsupportedTaskError` for anything else.
    """
    if name is not None and not isinstance(name, str):
        raise UnsupportedTaskError(f"a language is text such as 'en', not {name!r}")
    folded = (name or "").strip().casefold()
    if folded in ("", AUTO):
        return None
    for key in known:
        if key.casefold() == folded:
            return key
    if folded in _CODES:
        return _CODES[folded]
    if (locale := _LOCALE.fullmatch(folded)) is not None:
        return _CODES.get(locale[1], locale[1])
    near = difflib.get_close_matches(folded, [key for key in _CODES if len(key) > 3], n=1)
    hint = f" (did you mean {NAMES[_CODES[near[0]]]}?)" if near else ""
    allowed = ", ".join(f"{key} ({NAMES[key]})" if key in NAMES else key for key in known)
    allowed = allowed or "codes (en), names (English), locales (en-US)"
    raise UnsupportedTaskError(f"no language is called {name!r}{hint}; allowed are {allowed} and {AUTO}")


def language_candidates(
    names: str | Iterable[str] | None, known: Sequence[str] = ()
) -> tuple[str | None, tuple[str, ...]]:
    """The code of the language that is spoken, where one is named, and the codes of several of which one is.

    `names` are a list, or a text with commas. All languages of a model (`known`), and "auto" among them, are as good as
    none: the model finds the language, unless it has just one. Raises `UnsupportedTaskError` as `code` does.
    """
    if isinstance(names, str):
        names = [part for each in names.split(",") if (part := each.strip())]
    codes = [code(name, known) for name in names] if isinstance(names, Iterable) else [code(names, known)]
    found = tuple(dict.fromkeys(each for each in codes if each is not None))
    if not found or None in codes or set(found) == set(known):
        found = tuple(known) if len(known) == 1 else ()
    return (found[0], ()) if len(found) == 1 else (None, found)
