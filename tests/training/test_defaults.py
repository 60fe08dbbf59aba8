"""What is chosen for texts of different kinds."""

import pytest

from models.config import NetworkConfig
from training.data.corpus import CorpusConfig, SplitDocuments, make_splits
from training.defaults import choose_corpus, choose_network, choose_training, describe
from training.estimate import training_minutes

NAMES = "".join(f"name{i}saurus\n" for i in range(2000))
PROSE = ("It was a bright cold day in April, and the clocks were striking thirteen, as they do. " * 5 + "\n") * 200
WRAPPED = (("a line of prose that has been wrapped at a fixed width by a typist\n" * 6) + "\n") * 200
VERSE = "Shall I compare thee to a day,\nThou art more lovely, one may say.\n" * 2000
POEMS = "秦川雄帝宅，函谷壯皇居。\n綺殿千尋起，離宮百雉餘。\n\n" * 2000
MARKED = ("The <unk> of the <unk> was a word , and the other one was not .\n") * 500


@pytest.mark.parametrize(
    ("text", "times", "level", "boundary", "unwrap", "shuffle"),
    [
        (NAMES, 1, "char", "line", False, True),
        (PROSE, 1, "char", "document", False, False),
        (PROSE, 100, "word", "line", False, False),
        (WRAPPED, 1, "char", "document", False, False),
        (WRAPPED, 100, "word", "line", True, False),
        (VERSE, 1, "char", "line", False, False),
        (POEMS, 1, "char", "paragraph", False, False),
        (MARKED, 1, "split", "line", False, False),
    ],
    ids=["names", "a book", "many books", "wrapped book", "many wrapped books", "verse", "Chinese", "pre-tokenized"],
)
def test_level_and_boundary(text: str, times: int, level: str, boundary: str, unwrap: bool, shuffle: bool) -> None:
    chosen = choose_corpus(CorpusConfig(), describe([text] * times))
    assert (chosen.level, chosen.boundary, chosen.unwrap, chosen.shuffle_lines) == (level, boundary, unwrap, shuffle)


def test_text_for_speech_is_words_between_spaces_wrapped_lines_joined() -> None:
    chosen = choose_corpus(CorpusConfig(normalization="speech"), describe([WRAPPED]))
    assert (chosen.level, chosen.boundary, chosen.unwrap, chosen.vocabulary_size) == ("split", "line", True, 20_000)
    with pytest.raises(ValueError, match="level split"):
        CorpusConfig(level="char", normalization="speech")


def test_what_is_given_stays() -> None:
    given = CorpusConfig(level="bpe", boundary="paragraph", vocabulary_size=300, unwrap=False, shuffle_lines=False)
    chosen = choose_corpus(given, describe([NAMES]))
    assert (chosen.level, chosen.boundary, chosen.vocabulary_size) == ("bpe", "paragraph", 300)
    network = choose_network({"embedding_size": 24, "hidden_sizes": (48,)}, "word", 5000, 10_000)
    assert (network.embedding_size, network.hidden_sizes, network.projection_size) == (24, (48,), 24)
    assert choose_training({"steps": 7, "dropout": 0.0}, network, 10_000, False, True).steps == 7


@pytest.mark.parametrize("tokens", [64, 300, 5_000, 200_000, 1_000_000, 30_000_000])
def test_any_amount_of_text_can_be_batched_and_ends_in_minutes(tokens: int) -> None:
    network = choose_network({}, "char", 100, tokens)
    training = choose_training({}, network, tokens, False, True)
    tokens_per_step = training.batch_size * training.bptt_length
    assert (tokens - training.bptt_length) // tokens_per_step >= 1
    assert training.steps * tokens_per_step / 10_000 < 3_000  # seconds, at a slow 10,000 tokens a second
    assert training.validate_every <= training.steps


def test_dropout_grows_with_parameters_per_token() -> None:
    network = NetworkConfig(100, 64, (512, 512))
    dropouts = [choose_training({}, network, tokens, False, True).dropout for tokens in (10**8, 10**6, 10**5)]
    assert dropouts == sorted(dropouts)
    assert dropouts[0] == 0


def test_small_text_is_read_longer_with_noise_and_asked_steps_change_nothing() -> None:
    network = choose_network({}, "char", 60, 20_000)
    chosen = choose_training({}, network, 20_000, False, True)
    assert (chosen.averaging, chosen.dropout, chosen.batch_size) == ("ema", 0.5, 16)
    assert choose_training({"steps": 300}, network, 20_000, False, True).averaging == "none"  # as a recipe has it


def test_minutes_set_the_schedule() -> None:
    network = choose_network({}, "word", 20_000, 40_000_000)
    short, long = (choose_training({"max_minutes": m}, network, 40_000_000, False, False).steps for m in (10, 70))
    assert long == pytest.approx(7 * short, rel=0.01)


def test_minutes_bound_all_of_the_command() -> None:
    assert training_minutes(10, 60) == pytest.approx(7.5)  # a minute of reading, 1.5 of learning to spell
    assert training_minutes(1, 300) == pytest.approx(1 / 3)


def test_what_stands_in_the_training_text_is_not_held_out() -> None:
    poems = [f"line {i} of the first part,\nand number {i} of the second\n" for i in range(40)]
    text = "\n".join([*poems, poems[3]])
    config = CorpusConfig(level="char", boundary="paragraph", drop_repeats=True)
    splits = make_splits(SplitDocuments([text], [], []), config)
    assert poems[3].strip() not in "".join(map(str, splits.test))
    assert "number 39" in "".join(map(str, splits.test))
    assert poems[3].strip() in "".join(map(str, make_splits(SplitDocuments([text], [], []), CorpusConfig()).test))
