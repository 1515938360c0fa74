"""Real sentences, for networks that read text: the documentation of Python packages.

1. The sources are the docstrings of the packages in :data:`PACKAGES`, all of them requirements of
   this project, so that nothing has to be fetched; their tests are left out.
2. A sentence begins with a capital, ends with a full stop, and has words, commas, semicolons,
   quotes, hyphens and parentheses only, at least :data:`FEWEST_WORDS` words of them.
3. Words are split into the pieces of the vocabulary (WordPiece, the longest first); a sentence that
   the vocabulary cannot spell, or that has more than the wanted number of pieces, is left out.
4. A file belongs to calibration or to test by the parity of its name's hash, and what occurs in
   both is left out of calibration: no sentence and no file is in both.
5. Sentences are ordered by their own hash. The same packages give the same sentences.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("click", "numpy", "onnx", "rich")
FEWEST_WORDS = 6

_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;'()-]+\.")
_MARKUP = re.compile(r">>>|::|^\s*[-=*.|`:]{2,}", re.MULTILINE)


def sentences(vocabulary: set[str], most_pieces: int) -> tuple[list[str], list[str]]:
    """Sentences for calibration and for testing, as pieces with spaces between them."""
    found: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for package in PACKAGES:
        for name, text in _docstrings(package):
            chosen = found[_hash(name) % 2]
            for sentence in split_sentences(text):
                spelt = word_pieces(sentence, vocabulary)
                if spelt is not None and len(spelt) <= most_pieces:
                    chosen[" ".join(spelt)] = None
    test = sorted(found[1], key=_hash)
    calibration = sorted(found[0].keys() - found[1].keys(), key=_hash)
    return calibration, test


def split_sentences(text: str) -> list[str]:
    """The sentences of rule 2; paragraphs with markup have none."""
    result = []
    for paragraph in re.split(r"\n\s*\n", text):
        if not _MARKUP.search(paragraph):
            flowing = " ".join(paragraph.split())
            result += re.split(r"(?<=[.!?])\s+(?=[A-Z])", flowing)
    return [s for s in result if _SENTENCE.fullmatch(s) and len(s.split()) >= FEWEST_WORDS]


def word_pieces(sentence: str, vocabulary: set[str]) -> list[str] | None:
    """The pieces of all words and punctuation marks, or None where there are none for a word."""
    spelt = [_pieces(word, vocabulary) for word in _words(sentence)]
    return None if None in spelt else [piece for word in spelt for piece in word or []]


def known_pieces(sentence: str, vocabulary: set[str]) -> list[str]:
    """Likewise, with "[UNK]" for a word that has none."""
    spelt = (_pieces(word, vocabulary) or ["[UNK]"] for word in _words(sentence))
    return [piece for word in spelt for piece in word]


def _words(sentence: str) -> list[str]:
    """Words and punctuation marks, in small letters without accents."""
    plain = "".join(
        c for c in unicodedata.normalize("NFD", sentence) if not unicodedata.combining(c)
    )
    return re.findall(r"\w+|[^\w\s]", plain.lower())


def _pieces(word: str, vocabulary: set[str]) -> list[str] | None:
    pieces: list[str] = []
    begin = 0
    while begin < len(word):
        mark = "##" if begin else ""
        ends = range(len(word), begin, -1)
        end = next((end for end in ends if mark + word[begin:end] in vocabulary), None)
        if end is None:
            return None
        pieces.append(mark + word[begin:end])
        begin = end
    return pieces


def _docstrings(package: str) -> Iterator[tuple[str, str]]:
    """File names within the package's folder, and the docstrings in them."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    for file in sorted(folder.rglob("*.py")):
        name = f"{package}/{file.relative_to(folder).as_posix()}"
        if {"test", "tests"} & set(name.split("/")):
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                yield name, ast.get_docstring(node) or ""


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
