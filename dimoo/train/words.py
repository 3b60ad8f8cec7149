"""The built-in checkpoint's tokenizer: one id for each word of Toytown."""
from __future__ import annotations

import re
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dimoo import layout
from dimoo.config import SPECIAL_TOKENS
from dimoo.world import language, scene

TEXT_IDS = 512
"""Ids before the image codes. Those without a word are reserved, so that new words do not move the image codes."""

_INSTRUCTIONS = (
    "add remove replace change make turn recolor paint move put take delete erase swap color size material background setting "
    "letter it its them this that these into to with from as of by the all everything bigger smaller larger shinier "
    "extend continue fill draw show render sketch style drawing pixel art poster pencil depth edge edges canny hed map "
    "pose poses estimation openpose according image images view back front left right side based provided reference "
    "object objects same like no not nothing none both each other another next beside between near behind above below "
    "what which who where how many much is are there was does do can you describe name list count color colors kind kinds "
    "answer the question using a single word or phrase yes no shows directly without explanation please empty "
    "away see middle have for get rid give wear see tell say whole sky ground left-hand top bottom corner")
_PUNCTUATION = ". , ? ! ' \" - : ; ( ) /"


def toytown_words() -> list[str]:
    """Every word that captions, instructions, questions and answers of the world use, in a fixed order."""
    texts = [*scene.KINDS, *scene.COLORS, *scene.MATERIALS, *scene.SIZES, *scene.SETTINGS, *scene.VIEWS]
    texts += ["render pencil pixel poster"]  # what the ids of checkpoints count on; styles are shown, not said
    for names in language.NAMES.values():
        texts += [*names, *(language.plural(name) for name in names)]
    for phrases in (language.PLACES, language.SIZE_WORDS, language.MATERIAL_WORDS, language.RELATIONS):
        texts += [text for options in phrases.values() for text in options]
    texts += [*language.POSE_WORDS.values(), *language.NUMBERS, "five six seven eight nine ten", " ".join(scene.LETTERS)]
    texts += ["a an the and photo picture scene there is are in on at with of by", _INSTRUCTIONS, _PUNCTUATION]
    texts += [layout.GENERATE, layout.EDIT, layout.CONTROL, layout.SUBJECT, layout.PREDICT, layout.STYLE, layout.VIEW]
    texts += [layout.UNDERSTAND]
    words = [word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())]
    return list(dict.fromkeys(["<unk>", *words]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with TEXT_IDS ids, the special tokens last."""
    words = toytown_words()
    reserved = TEXT_IDS - len(SPECIAL_TOKENS) - len(words)
    words += [f"<reserved_{i}>" for i in range(reserved)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": [token.text for token in SPECIAL_TOKENS.values()]})
    assert len(fast) == TEXT_IDS
    return fast


def write_tokenizer(folder: str | Path) -> None:
    build_tokenizer().save_pretrained(str(folder))
