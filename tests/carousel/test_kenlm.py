"""The drop-in: KenLM's arithmetic on our scores, and the decoders and filters that use it.

pyctcdecode and datatrove are not dependencies of the project. To run all of this:
`pip install pygtrie datatrove regex kenlm && pip install --no-deps pyctcdecode` (whose metadata asks for NumPy 1).
"""

import copy
import importlib
import math
import os
import pickle
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from carousel import kenlm
from carousel.language_model import LanguageModel

SENTENCES = ["The cat ate pear", "The zebra ! sat", "pear", "", "The cats! ate , fish"]


@pytest.fixture(scope="module", params=["word", "char"])
def model(request: pytest.FixtureRequest, checkpoints_dir: Path) -> kenlm.Model:
    return kenlm.Model(str(checkpoints_dir / request.param))


@pytest.fixture(scope="module")
def word_model(checkpoints_dir: Path) -> kenlm.Model:
    return kenlm.Model(str(checkpoints_dir / "word"))


def steps(model: kenlm.Model, sentence: str, bos: bool, eos: bool) -> list[kenlm.FullScoreReturn]:
    """A sentence word by word."""
    state, found = kenlm.State(), []
    model.BeginSentenceWrite(state) if bos else model.NullContextWrite(state)
    for word in [*sentence.split(), *["</s>"] * eos]:
        after = kenlm.State()
        found.append(model.BaseFullScore(state, word, after))
        state = after
    return found


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_three_ways_to_score_a_sentence_agree(model: kenlm.Model, sentence: str, bos: bool, eos: bool) -> None:
    by_words = list(model.full_scores(sentence, bos, eos))
    by_steps = steps(model, sentence, bos, eos)
    assert len(by_words) == len(sentence.split()) + eos
    assert math.fsum(word[0] for word in by_words) == pytest.approx(model.score(sentence, bos, eos), abs=1e-12)
    for word, step in zip(by_words, by_steps, strict=True):
        assert word[0] == pytest.approx(step.log_prob, abs=1e-5)
        assert word[1:] == step[1:]


def test_score_is_the_librarys_in_log10(word_model: kenlm.Model, lm: LanguageModel) -> None:
    assert word_model.score(" The  cat\nsat ") == lm.score("The cat sat")[0].logprob / math.log(10)
    assert word_model.perplexity("The cat sat") == pytest.approx(lm.score("The cat sat")[0].perplexity_per_word)


def test_unknown_words(word_model: kenlm.Model) -> None:
    assert "cat" in word_model
    assert b"cat" in word_model
    assert "zebra" not in word_model
    assert "</s>" in word_model
    assert [oov for _, _, oov in word_model.full_scores("The zebra")] == [False, True, False]


def test_what_is_no_text_is_refused(word_model: kenlm.Model) -> None:
    with pytest.raises(TypeError):
        word_model.score(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="BeginSentenceWrite"):
        word_model.BaseScore(kenlm.State(), "<s>", kenlm.State())
    with pytest.raises(OSError, match="Cannot read model 'nowhere'"):
        kenlm.Model("nowhere")


def test_order_path_and_names(checkpoints_dir: Path) -> None:
    path = checkpoints_dir / "word"
    for given in (path, str(path), os.fsencode(path)):
        model = kenlm.LanguageModel(given, kenlm.Config())
        assert model.path == os.fsencode(path)
        assert model.order > 1000
        assert repr(model) == "<Model from 'word'>"


class TestState:
    def test_is_a_value(self, word_model: kenlm.Model) -> None:
        begin, again, null = kenlm.State(), kenlm.State(), kenlm.State()
        word_model.BeginSentenceWrite(begin)
        word_model.BeginSentenceWrite(again)
        word_model.NullContextWrite(null)
        assert begin == again != null
        assert null == kenlm.State()
        assert hash(begin) == hash(again)
        assert (begin < null) != (null < begin)
        assert len({begin, again, null}) == 2

    def test_copies_are_apart(self, word_model: kenlm.Model) -> None:
        state = kenlm.State()
        word_model.BeginSentenceWrite(state)
        for copied in (copy.copy(state), copy.deepcopy(state)):
            assert copied == state
            word_model.BaseScore(state, "The", copied)
            assert copied != state

    def test_the_same_words_make_the_same_state(self, word_model: kenlm.Model) -> None:
        states = []
        for _ in range(2):
            state = kenlm.State()
            word_model.BeginSentenceWrite(state)
            word_model.BaseScore(state, "The", state)  # in place
            states.append(state)
        assert states[0] == states[1]

    def test_a_long_context_keeps_few_distributions(self, word_model: kenlm.Model) -> None:
        words = " ".join(random.Random(0).choices(["cat", "ate", "fish", "zebra"], k=500))
        scores = steps(word_model, words, True, False)
        assert math.fsum(score.log_prob for score in scores) == pytest.approx(
            word_model.score(words, eos=False), rel=1e-5
        )
        assert len(word_model._distributions) == kenlm.KEPT_DISTRIBUTIONS


def test_threads_share_a_model(model: kenlm.Model) -> None:
    expected = [[step.log_prob for step in steps(model, sentence, True, True)] for sentence in SENTENCES]
    model._distributions.clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda s: [step.log_prob for step in steps(model, s, True, True)], SENTENCES * 20))
    assert found == expected * 20


def test_a_model_can_be_pickled(word_model: kenlm.Model) -> None:
    assert pickle.loads(pickle.dumps(word_model)).score("The cat") == word_model.score("The cat")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_loads_its_own(word_model: kenlm.Model) -> None:
    expected = word_model.score("The cat")
    child = os.fork()
    if child == 0:
        os._exit(int(word_model.score("The cat") != expected))
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def as_kenlm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`import kenlm` gives the drop-in; what imported the real one is imported anew."""
    monkeypatch.setitem(sys.modules, "kenlm", kenlm)
    yield
    for name in list(sys.modules):
        if name.split(".")[0] in ("pyctcdecode", "datatrove"):
            del sys.modules[name]


def imported(name: str) -> ModuleType:
    """A module of another project, or the test is skipped."""
    pytest.importorskip(name.split(".")[0], reason=f"{name.split('.')[0]} is not installed; see the top of this file")
    return importlib.import_module(name)


@pytest.mark.usefixtures("as_kenlm")
@pytest.mark.filterwarnings("ignore")
class TestPyctcdecode:
    """Frames that leave open whether it was "pear" or "pair": the acoustics prefer the latter by little."""

    LABELS = (" ", *"acefhiprstT", "")

    def frames(self) -> Any:
        """(T, labels), log-probabilities of "The cat ate pear" with the doubtful letters."""
        rows = []
        for character in "The cat ate pear":
            row = np.full(len(self.LABELS), -12.0)
            row[self.LABELS.index(character)] = -0.1
            rows += [row, self.blank()]
        rows[2 * 13] = np.full(len(self.LABELS), -12.0)  # the first letter of the doubtful pair: e or a
        rows[2 * 13][self.LABELS.index("e")], rows[2 * 13][self.LABELS.index("a")] = -0.75, -0.65
        rows[2 * 14] = np.full(len(self.LABELS), -12.0)
        rows[2 * 14][self.LABELS.index("a")], rows[2 * 14][self.LABELS.index("i")] = -0.75, -0.65
        return np.array(rows)

    def blank(self) -> Any:
        row = np.full(len(self.LABELS), -12.0)
        row[-1] = -0.01
        return row

    def test_the_model_decides_what_was_said(self, checkpoints_dir: Path) -> None:
        decoder = imported("pyctcdecode").build_ctcdecoder
        unigrams = ["The", "cat", "ate", "pear", "fish"]
        without = decoder(list(self.LABELS)).decode(self.frames())
        with_model = decoder(
            list(self.LABELS), kenlm_model_path=str(checkpoints_dir / "word"), unigrams=unigrams, alpha=0.5, beta=1.0
        )
        assert without == "The cat ate pair"
        assert with_model.decode(self.frames()) == "The cat ate pear"

    def test_scores_of_beams_are_the_models(self, word_model: kenlm.Model) -> None:
        module = imported("pyctcdecode")
        language_model = module.language_model.LanguageModel(word_model, ["The", "cat", "ate"], alpha=1.0, beta=0.0)
        state, total = language_model.get_start_state(), 0.0
        for word in ("The", "cat", "ate"):
            score, state = language_model.score(state, word, is_last_word=word == "ate")
            total += score
        assert total / math.log(10) == pytest.approx(word_model.score("The cat ate"), abs=1e-5)


@pytest.mark.usefixtures("as_kenlm")
@pytest.mark.filterwarnings("ignore")
class TestDatatrove:
    def test_ccnets_perplexity(self, checkpoints_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The class that its CCNet statistics use; files come from here, and words are not cut into pieces."""
        perplexity = imported("datatrove.utils.perplexity")
        monkeypatch.setattr(perplexity, "cached_asset_path_or_download", lambda _: str(checkpoints_dir / "word"))
        monkeypatch.setattr(perplexity.SentencePiece, "tokenize", lambda _, text: text)
        found = perplexity.KenlmModel("wikipedia", "en").get_perplexity("the cat\nsat", normalize_cc_net=False)
        model = kenlm.Model(str(checkpoints_dir / "word"))
        assert found == round(10 ** (-(model.score("the cat") + model.score("sat")) / 5), 1)

    def test_a_filter_keeps_what_is_probable(self, checkpoints_dir: Path) -> None:
        base = imported("datatrove.pipeline.filters.base_filter").BaseFilter
        document = imported("datatrove.data").Document

        class PerplexityFilter(base):  # type: ignore[misc, valid-type]
            name = "perplexity"

            def __init__(self, model: str, most: float) -> None:
                super().__init__()
                self.model, self.most = sys.modules["kenlm"].Model(model), most

            def filter(self, doc: Any) -> bool:
                return bool(self.model.perplexity(doc.text) < self.most)

        texts = ["The cat ate fish.", "ate ate The The"]
        model = kenlm.Model(str(checkpoints_dir / "word"))
        low, high = sorted(map(model.perplexity, texts))
        documents = [document(text, str(i)) for i, text in enumerate(texts)]
        kept = PerplexityFilter(str(checkpoints_dir / "word"), (low + high) / 2).run(documents)
        assert [doc.text for doc in kept] == [min(texts, key=model.perplexity)]


def test_the_real_module_has_no_more_than_the_drop_in() -> None:
    """Against KenLM itself, where it is installed."""
    real = pytest.importorskip("kenlm", reason="kenlm is not installed")
    for name in ("Model", "LanguageModel", "State", "Config", "LoadMethod", "ARPALoadComplain", "FullScoreReturn"):
        ours, theirs = getattr(kenlm, name), getattr(real, name)
        public = {attribute for attribute in dir(theirs) if not attribute.startswith("_")}
        instance = ours() if name in ("State", "Config") else ours
        assert public - set(dir(instance)) - {"order", "path"} == set(), name
