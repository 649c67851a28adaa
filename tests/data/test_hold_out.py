"""The rule by which a part of a corpus is held out for validation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.data.hold_out import EVERY_20TH, LAST_TENTH, TooShortError, describe_hold_out, hold_out


def parts(text: str) -> tuple[str, str]:
    """Return the training part and the part that is held out of a single document."""
    (train,), (valid,) = hold_out([text], "train"), hold_out([text], "valid")
    return train, valid


@pytest.mark.parametrize("number", [2, 3, 20, 22, 61])
def test_every_twentieth_document_is_held_out(number: int) -> None:
    corpus = [str(i) for i in range(1, number + 1)]
    valid = list(hold_out(corpus, "valid"))
    assert valid == [text for text in ("2", "22", "42") if text in corpus]
    assert list(hold_out(corpus, "train")) == [text for text in corpus if text not in valid]
    assert describe_hold_out(corpus) == (EVERY_20TH, None)


def test_a_split_has_one_of_two_names() -> None:
    with pytest.raises(ValueError, match="split is 'test'"):
        hold_out(["a", "b"], "test")


CUTS = {
    "a paragraph, although a line ends nearer": ("a" * 86 + "\n\n  " + "b" * 3 + "\n" + "c" * 6, "\n\n  "),
    "a line, although a space is nearer": ("a" * 86 + "\n" + "b" * 3 + " " + "c" * 9, "\n"),
    "a space": ("a" * 87 + "  " + "c" * 11, "  "),
    "nothing near": ("a " * 20 + "b" * 60, ""),
}


@pytest.mark.parametrize("text, separator", CUTS.values(), ids=CUTS)
def test_a_document_is_cut_at(text: str, separator: str) -> None:
    train, valid = parts(text)
    assert train + separator + valid == text
    assert 0.05 <= len(valid) / len(text) <= 0.15


def test_the_nearest_paragraph_is_chosen() -> None:
    assert parts("a" * 87 + "\n\n" + "b" * 4 + "\n\n" + "c" * 5)[1].startswith("b")
    assert parts("a" * 84 + "\n\n" + "b" * 2 + "\n\n" + "c" * 10)[1] == "c" * 10


@given(st.text(st.sampled_from("ab \n"), min_size=1, max_size=300))
def test_no_text_is_lost_and_white_space_is_stripped(text: str) -> None:
    text = text.strip()
    if len(text) < 10:
        with pytest.raises(TooShortError, match=f"a text of {len(text)} characters is too short"):
            parts(text)
        return
    train, valid = parts(text)
    assert text.startswith(train) and text.endswith(valid)
    assert text[len(train) : len(text) - len(valid)].strip() == ""
    assert train == train.strip() != "" and valid == valid.strip() != ""
    assert len(valid) <= 0.15 * len(text) + 1


def test_the_part_that_is_held_out_is_described() -> None:
    text = "One line.\n" * 90 + "\nÉnd of \x1b it all, and this line is longer than what is shown.\n" + "Last line.\n" * 3
    what, line = describe_hold_out([text.strip()])
    size = len(parts(text.strip())[1].encode())
    assert what == LAST_TENTH
    assert line == (
        f"a single document: its last tenth is held out for validation ({size} bytes, "
        'from "Énd of \x1b it all, and this line is longer..." on)'
    )
