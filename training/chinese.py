"""Chinese script and word boundaries: OpenCC for Traditional characters, jieba for words."""

import logging
from functools import cache

import jieba
from opencc import OpenCC

jieba.setLogLevel(logging.WARNING)


@cache
def _converter() -> OpenCC:
    return OpenCC("s2t")


def traditional(text: str) -> str:
    converted: str = _converter().convert(text)
    return converted


def words(text: str) -> list[str]:
    """The words of a text, in order; joining them gives the text back."""
    return list(jieba.cut(text))
