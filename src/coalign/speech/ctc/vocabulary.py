"""What a CTC model can write: text to token ids and back, with a count of what cannot be written."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import ModelError
from coalign.core.files import parse_json, write_json

BLANK = "<pad>"
UNKNOWN = "<unk>"
DELIMITER = "|"
_SPECIAL = re.compile(r"^(<.*>|\[.*\])$")
_TAGS = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}")
_ALIKE = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'", "‐": "-", "‑": "-", "–": "-", "—": " "})  # fmt: skip


@dataclass
class Vocabulary:
    """Tokens of a CTC model.

    Attributes:
        tokens: by id.
        blank: id of the blank.
        delimiter: token between words; a space in texts.
        tokenizer: of a model whose tokens are longer than characters; then it encodes.
    """

    tokens: list[str]
    blank: int = 0
    delimiter: str = DELIMITER
    tokenizer: Any = None
    _ids: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        letters = [token for token in self.tokens if len(token) == 1 and token.isalpha()]
        self.case = "upper" if letters and not any(one.islower() for one in letters) else "lower"

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> Vocabulary:
        """The characters of `texts`, in lower case, after blank, unknown and word delimiter."""
        found = sorted({char for text in texts for char in _plain(text).lower() if _is_written(char)})
        return cls([BLANK, UNKNOWN, DELIMITER, *found])

    @classmethod
    def load(cls, folder: Path, blank: int | None = None) -> Vocabulary:
        """From `vocab.json` in the layout of Wav2Vec2's tokenizer.

        Raises:
            ModelError: absent or of another layout.
        """
        file = folder / "vocab.json"
        try:
            found = parse_json(file.read_text(encoding="utf-8"))
            ids = {str(token): int(index) for token, index in found.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{file}: not a vocabulary of a CTC model ({error}).") from error
        tokens = [f"<unused {index}>" for index in range(max(ids.values(), default=0) + 1)]
        for token, index in ids.items():
            tokens[index] = token
        settings = folder / "tokenizer_config.json"
        config = parse_json(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        pad = config.get("pad_token", BLANK)
        pad = pad.get("content", BLANK) if isinstance(pad, dict) else pad
        place = blank if blank is not None else ids.get(pad, 0)
        return cls(tokens, place, config.get("word_delimiter_token", DELIMITER))

    def save(self, folder: Path) -> None:
        """Write `vocab.json` and `tokenizer_config.json`, which `Wav2Vec2CTCTokenizer` reads too."""
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(str(folder))
            return
        write_json(folder / "vocab.json", self._ids)
        settings = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": self.tokens[self.blank],
            "unk_token": UNKNOWN,
            "word_delimiter_token": self.delimiter,
            "do_lower_case": False,
        }
        write_json(folder / "tokenizer_config.json", settings)

    def __len__(self) -> int:
        return len(self.tokens)

    def normalise(self, text: str, outside: Counter[str] | None = None) -> str:
        """`text` as the model would write it: tags and punctuation gone, its case, single spaces.

        Args:
            outside: counts characters that the model cannot write and that are no punctuation; they are left out.
        """
        plain = _plain(_TAGS.sub(" ", text))
        plain = plain.upper() if self.case == "upper" else plain.lower()
        if self.tokenizer is not None:
            return " ".join(plain.split())
        kept = []
        for char in plain:
            if char.isspace() or char == self.delimiter:
                kept.append(" ")
            elif char in self._ids:
                kept.append(char)
            elif unicodedata.category(char)[0] in "PS":
                kept.append("" if char in "'-" else " ")
            elif outside is not None:
                outside[char] += 1
        return " ".join("".join(kept).split())

    def encode(self, text: str) -> list[int]:
        """Token ids of a normalised text; spaces are the word delimiter (left out where the model has none)."""
        if self.tokenizer is not None:
            return list(self.tokenizer(text, add_special_tokens=False).input_ids)
        chars = (self.delimiter if char == " " else char for char in text)
        return [self._ids[char] for char in chars if char in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids (not of an alignment); special tokens are left out."""
        if self.tokenizer is not None:
            return self.tokenizer.decode(list(ids), group_tokens=False, skip_special_tokens=True).strip()
        pieces = (self.tokens[one] for one in ids if one != self.blank)
        text = "".join(" " if one == self.delimiter else one for one in pieces if not _SPECIAL.match(one))
        return " ".join(text.split())


def outside_message(outside: Counter[str]) -> str:
    """`12 characters outside the vocabulary left out: 3 x '7', ...`; empty when there were none."""
    if not outside:
        return ""
    shown = ", ".join(f"{count} x {char!r}" for char, count in outside.most_common(8))
    more = ", ..." if len(outside) > 8 else ""
    digits = " Write numbers as words." if any(char.isdigit() for char in outside) else ""
    return f"{outside.total()} characters outside the vocabulary left out: {shown}{more}.{digits}"


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).translate(_ALIKE)


def _is_written(char: str) -> bool:
    return char.isalpha() or char == "'" or unicodedata.category(char).startswith("M")
