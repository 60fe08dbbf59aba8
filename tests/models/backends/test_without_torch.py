"""The kernels serve without torch: it takes two seconds and 300 MB that an answer does not need."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.backends.native import available

SERVING = """
import sys
from pathlib import Path

import numpy as np

from models.backends.load import load_inference
from models.checkpoint import load_checkpoint
from models.decoding.sampling import Draw, SamplingParams, sample_rows
from models.decoding.scoring import log_softmax
from models.words.next_words import WordIndex, split_begun

checkpoint = load_checkpoint(Path(sys.argv[1]))
network = load_inference(checkpoint.config, checkpoint.weights(), number_type="float32", threads=2)
ids = np.array([[checkpoint.tokenizer.eos_id, *checkpoint.tokenizer.encode_ids("The cat")]])
states = network.zeros(1)
features = network.run(ids, states, np.array([0]))
logprobs, ranks = network.score(features[0], ids[0])
assert len(logprobs) == len(ranks) == ids.shape[1]
logits = network.logits(features[:, -1])
begun = split_begun(checkpoint.tokenizer, "The cat")
words = WordIndex(checkpoint.tokenizer).find(log_softmax(logits)[0], begun, 5, False)
assert words.words
assert len(sample_rows(network, logits, [Draw(SamplingParams(top_p=0.9, presence_penalty=1.0), seed=1)])) == 1
import app.main
print(*sorted({"torch", "safetensors.torch"} & sys.modules.keys()))
"""


@pytest.mark.skipif(not available(), reason="the native kernels were not built")
def test_loading_scoring_sampling_and_next_words_import_no_torch(checkpoints_dir: Path) -> None:
    command = [sys.executable, "-c", SERVING, str(checkpoints_dir / "word")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
