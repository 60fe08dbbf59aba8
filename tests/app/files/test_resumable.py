"""Outputs that an interruption does not lose."""

import json
import subprocess
from pathlib import Path

import pytest

from app.files.lines import InputError
from app.files.resumable import ResumableFile


def test_a_partial_of_something_else_is_refused_until_told_to_begin_anew(tmp_path: Path) -> None:
    with ResumableFile(tmp_path / "out", {"texts": 1}) as file:
        file.write(["a", "b"])
    with pytest.raises(InputError, match="--restart"):
        ResumableFile(tmp_path / "out", {"texts": 2})
    with ResumableFile(tmp_path / "out", {"texts": 1}) as file:
        assert file.kept == 2
        file.write(["c"])
        assert list(file.lines()) == ["a", "b", "c"]
    with ResumableFile(tmp_path / "out", {"texts": 2}, restart=True) as file:
        file.write(["d"])
        file.finish(str.upper)
    assert (tmp_path / "out").read_text() == "D\n"


def test_two_commands_do_not_write_one_output(tmp_path: Path) -> None:
    with ResumableFile(tmp_path / "out", {}), pytest.raises(InputError, match="another command is writing"):
        ResumableFile(tmp_path / "out", {})


RECORDS = [json.dumps({"text": text, "logprob": -1.25}, ensure_ascii=False) for text in ("a", "é\t", "c")]


def interrupted(folder: Path) -> Path:
    """The partial file of a command that wrote three lines."""
    with ResumableFile(folder / "out", {}) as file:
        file.write(RECORDS)
    return file.partial


def test_no_flipped_bit_is_taken_for_what_was_written(tmp_path: Path) -> None:
    """It is refused, or it has cut the last line short, which is then made again."""
    partial = interrupted(tmp_path)
    whole = partial.read_bytes()
    begin = whole.index(b"\n") + 1
    for place in range(8 * begin, 8 * len(whole)):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        partial.write_bytes(content)
        try:
            with ResumableFile(tmp_path / "out", {}) as file:
                assert list(file.lines()) == RECORDS[:2]
                assert place // 8 == len(whole) - 1
        except InputError:
            pass


def test_a_damaged_line_is_named_and_what_stands_before_it_can_be_kept(tmp_path: Path) -> None:
    partial = interrupted(tmp_path)
    partial.write_bytes(partial.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(InputError, match=r"line 3 is damaged. Give --restart to begin anew; or keep") as raised:
        ResumableFile(tmp_path / "out", {})
    command = str(raised.value).split("before it:  ")[1].split("  and repeat")[0]
    subprocess.run(command, shell=True, check=True)
    with ResumableFile(tmp_path / "out", {}) as file:
        assert list(file.lines()) == RECORDS[:1]
    with ResumableFile(tmp_path / "out", {}, restart=True) as file:
        assert file.kept == 0


def test_a_partial_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    partial = interrupted(tmp_path)
    header = partial.read_bytes().split(b"\n")[0] + b"\n"
    partial.write_bytes(header + "".join(line + "\n" for line in RECORDS).encode())
    with ResumableFile(tmp_path / "out", {}) as file:
        file.write(RECORDS)
        file.finish(str)
    assert (tmp_path / "out").read_text().splitlines() == RECORDS * 2
    partial.write_bytes(header + b'{"text": nonsense}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        ResumableFile(tmp_path / "out", {})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, as there is no /proc")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with ResumableFile(tmp_path / "out", {}) as file:
        file.write(RECORDS)
        kept = file.partial.read_bytes()
        file._file.close()
        file._file = Path("/dev/full").open("ab+")  # noqa: SIM115
        with pytest.raises(OSError, match="No space left on device; repeat the command to go on") as raised:
            file.write(RECORDS)
        assert raised.value.filename == str(file.partial)
    assert file.partial.read_bytes() == kept
    with ResumableFile(tmp_path / "out", {}) as file:
        assert file.kept == 3
