"""Numbers agree with their nouns."""

from ppipe.wording import counted


def test_one_is_singular_and_all_else_plural() -> None:
    assert [counted(number, "GPU") for number in (0, 1, 2)] == ["0 GPUs", "1 GPU", "2 GPUs"]
    assert [counted(number, "class", "classes") for number in (1, 3)] == ["1 class", "3 classes"]
