"""The command `surprisal`: a table of words."""

import csv
import io
import math
from pathlib import Path

import pytest

from tests.app.commands.running import run


def rows_of(tsv: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tsv), delimiter="\t"))


def test_the_words_of_a_sentence_add_up_to_its_score(checkpoints_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "sentences.txt"
    source.write_text("The cat sat.\n\nThe xyzzy ate  fish\r\n", encoding="utf-8")
    table = run("surprisal", str(source), "--model", "word", checkpoints=checkpoints_dir)
    assert table.returncode == 0, table.stderr
    rows = rows_of(table.stdout)
    assert [row["word"] for row in rows] == ["The", "cat", "sat.", "", "The", "xyzzy", "ate", "fish", ""]
    assert [row["sentence"] for row in rows] == ["1"] * 4 + ["2"] * 5
    assert [row["oov"] for row in rows if row["word"] == "xyzzy"] == ["1"]
    score = run("score", "--text", "The cat sat.", "--model", "word", checkpoints=checkpoints_dir)
    bits = -float(score.stdout.partition('"logprob": ')[2].partition(",")[0]) / math.log(2)
    assert sum(float(row["surprisal"]) for row in rows[:4]) == pytest.approx(bits)


def test_rows_of_an_item_are_read_on_and_columns_stay(checkpoints_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "stories.csv", tmp_path / "words.tsv"
    source.write_text('story,text,ms\na,"The cat, sat",3\na,The fish,4\nb,The fish,5\n', encoding="utf-8")
    arguments = ("surprisal", str(source), "-o", str(output), "--context", "story", "--model", "word")
    done = run(*arguments, checkpoints=checkpoints_dir)
    assert done.returncode == 0, done.stderr
    rows = rows_of(output.read_text(encoding="utf-8"))
    assert [(row["story"], row["ms"], row["word"]) for row in rows[3:]] == [
        ("a", "4", "The"),
        ("a", "4", "fish"),
        ("b", "5", "The"),
        ("b", "5", "fish"),
    ]
    assert (rows[3]["start"], rows[3]["end"]) == ("0", "3")
    assert rows[3]["surprisal"] != rows[5]["surprisal"]


def test_models_stand_side_by_side(checkpoints_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("The cat", encoding="utf-8")
    arguments = ("surprisal", str(tmp_path / "one.txt"), "-m", "word", "-m", "char")
    rows = rows_of(run(*arguments, checkpoints=checkpoints_dir).stdout)
    assert all(float(row["surprisal_word"]) > 0 and float(row["surprisal_char"]) > 0 for row in rows)


def test_a_column_that_is_not_there_is_named(checkpoints_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.tsv"
    source.write_text("item\tsentence\n1\tThe cat\n", encoding="utf-8")
    refused = run("surprisal", str(source), "--model", "word", checkpoints=checkpoints_dir)
    assert refused.returncode == 2
    assert "no column 'text'" in refused.stderr
    assert "item, sentence" in refused.stderr
