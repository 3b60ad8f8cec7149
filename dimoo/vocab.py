"""Text to ids and back, the special tokens, and the range of the image codes; all checked at load."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from dimoo.config import PUBLISHED_CODEBOOK_SIZE, PUBLISHED_TABLE_SIZE, SPECIAL_TOKENS, LLaDAConfig
from dimoo.errors import DimooError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# How a tokenizer of whole words is written out: no space before the first of these, nor after the second.
CLOSING, OPENING = frozenset(".,;:?!)]'-/"), frozenset("(['-/")
RESERVED = re.compile(r"<\|?reserved_\w+\|?>")  # names of ids that a tokenizer keeps free
LONGEST_CHARACTER = 4  # bytes, and so tokens, that a character may be spread over


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens, by the names of config.SPECIAL_TOKENS."""

    end_of_text: int
    newline: int
    mask: int
    pad: int
    boi: int
    eoi: int
    uncondition: int
    answer: int
    answer_end: int
    system: int
    system_end: int
    user: int
    user_end: int


class Vocabulary:
    """The ids of one checkpoint: text, special tokens, then the image codes as the last ids of the table."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ids: SpecialIds, config: LLaDAConfig) -> None:
        self.tokenizer = tokenizer
        self.ids = ids
        self.image_offset = config.image_offset
        self.codebook_size = config.codebook_size
        # What a tokenizer would read out of a user's words. The match ignores case because a tokenizer may
        # look for added tokens after lower-casing, and looks ahead so that overlapping ones are all found.
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        written = {*added, *(token.text for token in SPECIAL_TOKENS.values())}
        self._special = re.compile(f"(?=(?:{'|'.join(map(re.escape, written))}))", re.IGNORECASE)

    @classmethod
    def load(cls, folder: str | Path, config: LLaDAConfig) -> Vocabulary:
        """Reads tokenizer.json and its companions from a checkpoint's folder; checks them with config.json.

        Raises DimooError when a special token is missing or not one id, or when ids do not fit together.
        """
        from transformers import PreTrainedTokenizerFast

        if not (Path(folder) / "tokenizer.json").is_file():
            raise DimooError(f"There is no tokenizer.json in {folder}.")
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        except Exception as error:  # the tokenizers library raises bare Exception on unreadable files
            raise DimooError(f"The tokenizer in {folder} cannot be read: {error}") from error
        vocabulary = cls(tokenizer, resolve_special_ids(tokenizer, config), config)
        vocabulary.check()
        return vocabulary

    def check(self) -> None:
        """Raises DimooError unless ids built from parts are what the tokenizer says of the whole text."""
        ids = astuple(self.ids)
        if len(set(ids)) < len(ids) or max(ids) >= self.image_offset:
            raise DimooError(
                "The tokenizer does not fit config.json: special tokens share an id or lie among the image "
                f"codes, which start at {self.image_offset}."
            )
        text = "a red ball"
        tokens = [SPECIAL_TOKENS[name].text for name in ("system", "system_end", "user", "user_end")]
        whole = self.tokenizer(f"{tokens[0]}{text}{tokens[1]}{tokens[2]}{text}{tokens[3]}")["input_ids"]
        words = self.encode(text)
        parts = [self.ids.system, *words, self.ids.system_end, self.ids.user, *words, self.ids.user_end]
        if whole != parts:
            raise DimooError(
                "The tokenizer does not write <system>, </system>, <user> and </user> as one id each "
                "or adds ids of its own; this is not Lumina-DiMOO's tokenizer."
            )

    @property
    def image_codes(self) -> slice:
        """The image codes' place in the vocabulary."""
        return slice(self.image_offset, self.image_offset + self.codebook_size)

    @property
    def text_ids(self) -> slice:
        """The text and special ids' place in the vocabulary."""
        return slice(0, self.image_offset)

    @property
    def answer_ends(self) -> tuple[int, ...]:
        """Ids that end a text answer."""
        return self.ids.answer_end, self.ids.end_of_text

    @cached_property
    def not_first_in_answers(self) -> tuple[int, ...]:
        """Ids that no answer begins with: what ends it or fills it up, and marks that stand after words."""
        marks = [ids for ids in map(self.encode, ".,;:?!") if len(ids) == 1]
        return (*self.answer_ends, self.ids.pad, *(mark for (mark,) in marks))

    @cached_property
    def never_in_answers(self) -> tuple[int, ...]:
        """Ids that must not appear in a text answer: the unknown word, ids without a word, and special ones.

        Of the special ones those that end an answer, or fill it, are allowed.
        """
        added = [i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special and i < self.image_offset]
        unknown = [] if self.tokenizer.unk_token_id is None else [self.tokenizer.unk_token_id]
        unused = [i for token, i in self.tokenizer.get_vocab().items() if RESERVED.fullmatch(token)]
        never = {*astuple(self.ids), *added, *unknown, *unused, *range(len(self.tokenizer), self.image_offset)}
        return tuple(sorted(never - {*self.answer_ends, self.ids.pad}))

    def encode(self, text: str) -> list[int]:
        """Ids of a user's text. Special tokens written in the text are read as plain characters."""
        return [token for piece in self._plain_pieces(text) for token in self._ids(piece)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens and image codes leave no trace."""
        return "".join(self.pieces(ids)).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id adds to the text of all; "" for special tokens, image codes and parts of a character.

        A character that is spread over several ids comes with the last of them.
        """
        special = {*astuple(self.ids), *self.never_in_answers}
        plain = [place for place, i in enumerate(ids) if i < self.image_offset and int(i) not in special]
        text = [int(ids[place]) for place in plain]
        spell = self._spell_words if self.tokenizer.backend_tokenizer.decoder is None else self._spell_bytes
        texts = dict(zip(plain, spell(text), strict=True))
        return [texts.get(place, "") for place in range(len(ids))]

    def _spell_words(self, ids: list[int]) -> list[str]:
        """A tokenizer without a decoder has whole words, and nothing says where spaces go."""
        words, before = [], ""
        for word in self.tokenizer.convert_ids_to_tokens(ids):
            space = before and word not in CLOSING and before not in OPENING
            words.append(" " + word if space else word)
            before = word
        return words

    def _spell_bytes(self, ids: list[int]) -> list[str]:
        texts, group = [], []
        for i in ids:
            group.append(i)
            text = self.tokenizer.decode(group, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            whole = not text.endswith("\N{REPLACEMENT CHARACTER}") or len(group) == LONGEST_CHARACTER
            texts.append(text if whole else "")
            group = [] if whole else group
        return texts

    def unknown_words(self, text: str) -> list[str]:
        """Words of the text that the tokenizer cannot tell apart, each once; numbers and emoji are words, punctuation is not."""
        words = [text[start:end] for start, end in self._unknown(text)]
        return list(dict.fromkeys(word for word in words if any(c.isalnum() or category(c) == "So" for c in word)))

    def known_words(self, text: str) -> str:
        """The text without what would all become the same unknown token, which says nothing."""
        unknown = self._unknown(text)
        if not unknown:
            return text
        ends = [0, *(place for span in unknown for place in span), len(text)]
        return " ".join(" ".join(text[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)).split())

    def _unknown(self, text: str) -> list[tuple[int, int]]:
        """Where in the text there is what the tokenizer does not know."""
        unknown, found, begin = self.tokenizer.unk_token_id, [], 0
        if unknown is None:
            return []
        for piece in self._plain_pieces(text):
            encoding = self.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            spans = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
            found += [(begin + start, begin + end) for token, (start, end) in spans if token == unknown]
            begin += len(piece)
        return found

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain_pieces(self, text: str) -> list[str]:
        """Cuts the text after the first character of each special token in it, so that none is whole."""
        cuts = [match.start() + 1 for match in self._special.finditer(text)]
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) if a < b]


def resolve_special_ids(tokenizer: PreTrainedTokenizerFast, config: LLaDAConfig) -> SpecialIds:
    """Looks the special tokens up by name; in the published vocabulary the published ids hold.

    Raises DimooError when a token is missing, has another id than the published one, or when the table is not as wide as the
    published tokenizer wants: image codes are counted from its end, so all of them would be off.
    """
    sizes = config.table_size, config.codebook_size
    published = sizes == (PUBLISHED_TABLE_SIZE, PUBLISHED_CODEBOOK_SIZE)
    known = tokenizer.get_vocab()
    mask = SPECIAL_TOKENS["mask"]
    if not published and known.get(mask.text) == mask.published_id:
        raise DimooError(
            f"config.json says that the vocabulary has {sizes[0]} ids, {sizes[1]} of them image codes, but with this "
            f"tokenizer it must have {PUBLISHED_TABLE_SIZE}, {PUBLISHED_CODEBOOK_SIZE} of them image codes."
        )
    ids = {}
    for name, token in SPECIAL_TOKENS.items():
        found = known.get(token.text)
        wanted = token.published_id if published else None
        if found is None and wanted is None:
            raise DimooError(f"The tokenizer has no special token {token.text}.")
        if None not in (found, wanted) and found != wanted:
            raise DimooError(f"The tokenizer gives {token.text} the id {found}, the checkpoint {wanted}.")
        ids[name] = wanted if found is None else found
    return SpecialIds(**ids)
