"""Text to ids and back, and what is checked when a tokenizer is loaded."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from dimoo.config import PUBLISHED_IMAGE_OFFSET, SPECIAL_TOKENS, LLaDAConfig
from dimoo.errors import DimooError
from dimoo.vocab import Vocabulary

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

NAMES = [token.text for token in SPECIAL_TOKENS.values()]


def words_tokenizer(specials=NAMES, first_ids=None, special=True):
    """Word-level; first_ids: fixed ids of some tokens, for the published vocabulary."""
    words = ["<unk>", "a", "red", "ball", "house", ".", ",", "2"]
    ids = {word: index for index, word in enumerate(words)} | (first_ids or {})
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.add_special_tokens(["<unk>"])
    added = [AddedToken(text, special=special, normalized=not special) for text in specials]
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return tokenizer


def bytes_tokenizer():
    """Byte-level BPE, as the published checkpoint has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=NAMES, show_progress=False
    )
    tokenizer.train_from_iterator(["a red ball next to a red house"] * 4, trainer)
    return tokenizer


def load(tokenizer, folder, codes=16, **sizes):
    unk = {"unk_token": "<unk>"} if tokenizer.token_to_id("<unk>") is not None else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **unk).save_pretrained(str(folder))
    sizes = {"vocab_size": tokenizer.get_vocab_size() + codes} | sizes
    return Vocabulary.load(folder, LLaDAConfig(codebook_size=codes, **sizes))


@pytest.fixture(scope="module", params=["words", "bytes", "words, ordinary added tokens"])
def vocab(request, tmp_path_factory):
    build = {"words": words_tokenizer, "bytes": bytes_tokenizer}.get(
        request.param, lambda: words_tokenizer(special=False)
    )
    return load(build(), tmp_path_factory.mktemp("vocab"))


def test_special_tokens_and_image_codes_have_their_places(vocab):
    known = vocab.tokenizer.get_vocab()
    for name, token in SPECIAL_TOKENS.items():
        assert getattr(vocab.ids, name) == known[token.text]
    assert vocab.image_codes == slice(len(known), len(known) + 16)
    assert vocab.text_ids.stop == vocab.image_codes.start


pieces = st.sampled_from(
    [*NAMES, *(name.upper() for name in NAMES), "<unk>", "red", " ", "<", ">", "</", "<|", "ü"]
)


@given(parts=st.lists(pieces, max_size=12))
def test_text_can_never_inject_a_special_token(vocab, parts):
    special = {getattr(vocab.ids, name) for name in SPECIAL_TOKENS}
    assert special.isdisjoint(vocab.encode("".join(parts)))


@pytest.fixture(scope="module")
def bytes_vocab(tmp_path_factory):
    return load(bytes_tokenizer(), tmp_path_factory.mktemp("bytes"))


@given(text=st.text(alphabet="abc xyz.,ü猫\n", max_size=40))
def test_bytes_come_back_as_they_went(bytes_vocab, text):
    assert bytes_vocab.decode(bytes_vocab.encode(text)) == text.strip()
    assert bytes_vocab.unknown_words(text) == []


def test_plain_text_is_what_the_tokenizer_says(vocab):
    text = "a red ball, a house."
    assert vocab.encode(text) == vocab.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_decoding_leaves_out_special_tokens_and_image_codes(vocab):
    ids = [
        vocab.ids.answer,
        *vocab.encode("a red"),
        vocab.ids.mask,
        vocab.image_offset + 3,
        vocab.ids.answer_end,
    ]
    assert vocab.decode(ids) == "a red"


def test_unknown_words(tmp_path):
    vocab = load(words_tokenizer(), tmp_path)
    assert vocab.unknown_words("A red Zebra, 7 balls & a zebra!") == ["Zebra", "7", "balls", "zebra"]
    assert vocab.unknown_words("a red ball") == []
    assert vocab.unknown_words("<mask> a <answer>") == ["mask", "answer"]
    assert vocab.unknown_words("a red ball 🙂!!") == ["🙂"]
    assert vocab.known_words("a red ball 🙂 and a zebra!!") == "a red ball a" == vocab.known_words("a red ball a")


def test_answers_may_end_and_be_padded_but_hold_no_other_special_token(vocab):
    allowed = {vocab.ids.answer_end, vocab.ids.pad, vocab.ids.end_of_text}
    everything = {getattr(vocab.ids, name) for name in SPECIAL_TOKENS}
    unknown = {vocab.tokenizer.unk_token_id} - {None}
    assert set(vocab.never_in_answers) == (everything | unknown) - allowed
    assert set(vocab.answer_ends) < allowed


def test_no_answer_begins_with_its_end_or_with_a_mark_after_words(vocab):
    first = set(vocab.not_first_in_answers)
    assert {*vocab.answer_ends, vocab.ids.pad, *vocab.encode("."), *vocab.encode(",")} <= first
    assert not first & {*vocab.encode("a"), *vocab.encode("house")}


def test_ids_that_are_no_token_are_never_in_answers(tmp_path):
    vocab = load(words_tokenizer(), tmp_path, vocab_size=words_tokenizer().get_vocab_size() + 16 + 3)
    assert set(range(len(vocab.tokenizer), vocab.image_offset)) <= set(vocab.never_in_answers)
    assert len(vocab.tokenizer) + 3 == vocab.image_offset


def test_ids_kept_free_are_never_in_answers(tmp_path):
    first = {"<reserved_0>": 8, "<|reserved_token_1|>": 9}
    vocab = load(words_tokenizer(first_ids=first), tmp_path)
    assert {8, 9} <= set(vocab.never_in_answers)


def test_words_are_joined_as_one_writes_them(tmp_path):
    vocab = load(words_tokenizer(), tmp_path)
    ids = vocab.encode("a red ball, a house.")
    assert vocab.pieces(ids) == ["a", " red", " ball", ",", " a", " house", "."]
    assert vocab.decode([*ids[:2], vocab.ids.pad, *ids[2:]]) == "a red ball, a house."
    assert vocab.pieces([vocab.ids.answer, ids[0], vocab.ids.mask, vocab.tokenizer.unk_token_id, ids[1]]) == [
        "", "a", "", "", " red",
    ]  # fmt: skip


@given(text=st.text(alphabet="abc xyz.,ü猫😀\n", max_size=40))
def test_pieces_of_bytes_add_up_to_the_text(bytes_vocab, text):
    ids = bytes_vocab.encode(text)
    pieces = bytes_vocab.pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_known_words(tmp_path):
    vocab = load(words_tokenizer(), tmp_path)
    assert vocab.known_words("a red Zebra, a ball") == "a red , a ball"
    assert vocab.known_words("a red ball") == "a red ball"


@pytest.mark.parametrize("name", ["newline", "system", "user_end", "mask"])
def test_missing_special_token(tmp_path, name):
    text = SPECIAL_TOKENS[name].text
    with pytest.raises(DimooError, match="has no special token") as error:
        load(words_tokenizer([other for other in NAMES if other != text]), tmp_path)
    assert text in str(error.value)


def test_image_codes_may_not_cover_special_tokens(tmp_path):
    with pytest.raises(DimooError, match="do(es)? not fit config.json"):
        load(words_tokenizer(), tmp_path, vocab_size=20 + 16)


def test_tokenizer_that_adds_ids_is_refused(tmp_path):
    tokenizer = words_tokenizer()
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A <|endoftext|>", None, [("<|endoftext|>", end)]
    )
    with pytest.raises(DimooError, match="adds ids of its own"):
        load(tokenizer, tmp_path)


def published_ids(**changes):
    ids = {token.text: token.published_id for token in SPECIAL_TOKENS.values() if token.published_id}
    unlisted = [token.text for token in SPECIAL_TOKENS.values() if not token.published_id]
    return ids | {text: 126340 + index for index, text in enumerate(unlisted)} | changes


def test_published_vocabulary_keeps_the_published_ids(tmp_path):
    """Also where the tokenizer writes a token another way: the id is what the weights know."""
    ids = published_ids()
    del ids["<end-of-line>"], ids["<|pad|>"]
    vocab = load(words_tokenizer(list(ids), ids), tmp_path, 8192, vocab_size=PUBLISHED_IMAGE_OFFSET + 8192)
    assert (vocab.ids.newline, vocab.ids.pad, vocab.ids.mask) == (126084, 126339, 126336)
    assert vocab.ids.user == vocab.tokenizer.get_vocab()["<user>"]
    assert vocab.image_offset == PUBLISHED_IMAGE_OFFSET


def test_published_vocabulary_with_another_id_is_refused(tmp_path):
    ids = published_ids(**{"<answer>": 126001})
    with pytest.raises(DimooError, match="<answer> the id 126001"):
        load(words_tokenizer(list(ids), ids), tmp_path, 8192, vocab_size=PUBLISHED_IMAGE_OFFSET + 8192)


def test_folder_without_a_readable_tokenizer(tmp_path):
    with pytest.raises(DimooError, match="no tokenizer.json"):
        Vocabulary.load(tmp_path, LLaDAConfig(vocab_size=40, codebook_size=16))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": "none"}))
    with pytest.raises(DimooError, match="cannot be read"):
        Vocabulary.load(tmp_path, LLaDAConfig(vocab_size=40, codebook_size=16))
