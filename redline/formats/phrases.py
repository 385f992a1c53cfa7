"""Where a text may be broken: the cost of a line or cue ending between two words.

Clauses first, then phrases, as Netflix's Timed Text Style Guide (Line Treatment) and BBC's Subtitle Guidelines (3.4,
"Break at natural points") ask for: after punctuation, before conjunctions and prepositions, not after an article.
"""

from __future__ import annotations

SENTENCE, CLAUSE, PHRASE, WORD, DANGLING, INSIDE = -3.0, 0.5, 2.5, 5.0, 8.0, 30.0
"""Costs of a break: after a sentence, after a clause, before a phrase, between words, after an article, conjunction or
preposition that belongs to what follows, and inside a word. Below 0 a break is gladly taken."""
_SENTENCE_ENDS = ".?!…。？！؟।"
_CLAUSE_ENDS = ",;:–—，、；：،؛"
_CLOSING = "\"'”’»›)]}」』"

_LINKING = {
    "en": """and or but nor so yet because although though while when where if that which who whom whose than as unless
        until since whether about after against along among around at before behind between by during for from in
        into of on onto over through to toward towards under upon with within without""",
    "de": """und oder aber denn sondern weil dass ob wenn als während obwohl damit bevor nachdem sodass an auf aus bei
        bis durch für gegen hinter in mit nach neben ohne seit trotz über um unter von vor wegen zu zwischen im am vom
        zum zur beim ins""",
    "fr": """et ou mais donc or ni car que qui dont où quand lorsque puisque comme si parce à au aux avec chez contre
        dans de des depuis derrière devant du durant en entre par pendant pour sans sous sur vers""",
    "es": """y e o u pero sino porque que quien cuando donde como si aunque mientras a al ante bajo con contra de del
        desde durante en entre hacia hasta para por según sin sobre tras""",
    "it": """e ed o ma però perché che chi quando dove come se mentre a ad al alla con contro da dal dalla di del della
        dei delle dopo durante fra in nel nella per senza sopra sotto su sul sulla tra verso""",
    "pt": """e ou mas porque que quem quando onde como se embora enquanto a ao à com contra de do da dos das desde
        durante em no na nos nas entre para pelo pela por sem sob sobre até""",
}
_LEADING = {
    "en": "a an the my your his her its our their this these those no every each very not",
    "de": "der die das den dem des ein eine einen einem einer eines mein dein sein ihr unser kein keine nicht sehr",
    "fr": "le la les un une ce cet cette ces mon ma mes ton ta tes son sa ses notre votre leur leurs ne très",
    "es": "el la los las un una unos unas mi tu su sus nuestro este esta ese esa no muy",
    "it": "il lo la i gli le un uno una mio mia tuo tua suo sua questo questa non molto",
    "pt": "o os as um uma uns umas meu minha seu sua nosso este esta esse essa não muito",
}
_BREAK_BEFORE = {language: frozenset(words.split()) for language, words in _LINKING.items()}
_KEEP_WITH_NEXT = {language: _BREAK_BEFORE[language] | frozenset(words.split()) for language, words in _LEADING.items()}


def ends_clause(text: str) -> bool:
    return text.rstrip(_CLOSING)[-1:] in {*_SENTENCE_ENDS, *_CLAUSE_ENDS}


def break_cost(before: str, after: str, language: str, inside: bool = False) -> float:
    """What a break between two neighbouring words costs; `inside`: they are parts of one word.

    Languages without a list of conjunctions and prepositions are broken at punctuation alone.
    """
    last = before.rstrip(_CLOSING)[-1:]
    if last and last in _SENTENCE_ENDS:
        return SENTENCE
    if last and last in _CLAUSE_ENDS:
        return CLAUSE
    if inside:
        return INSIDE
    if before.casefold() in _KEEP_WITH_NEXT.get(language, ()):
        return DANGLING
    return PHRASE if after.strip("\"'“‘«([").casefold() in _BREAK_BEFORE.get(language, ()) else WORD
