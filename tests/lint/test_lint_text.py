"""Protobuf text with line numbers."""

from hypothesis import given
from hypothesis import strategies as st

from model_repo_generator.lint.text import Node, path_text, read, tokens

TEXT = """# a model
name: "a" 'b'; max_batch_size: 8
input [
  { name: "x # no comment" dims: [ 1,
      -1 ] },
  < name: "y\\n" >
]
parameters { key: "k" value { string_value: "one" } }
parameters { key: "k" value: { string_value: "two" } }
step { input_map { key: "i" value: "t" } input_map { key: "i" value: "u" } }
"""


def test_every_field_has_its_line() -> None:
    tree = read(TEXT)
    assert tree.line_of(("name",)) == 2
    assert tree.line_of(("max_batch_size",)) == 2
    assert tree.line_of(("input", 0, "dims", 0)) == 4
    assert tree.line_of(("input", 0, "dims", 1)) == 5
    assert tree.line_of(("input", 1, "name")) == 6
    assert tree.line_of(("parameters", 1, "value", "string_value")) == 9


def test_an_unwritten_field_has_the_line_of_what_it_belongs_to() -> None:
    tree = read(TEXT)
    assert tree.line_of(("input", 1, "data_type")) == 6
    assert tree.line_of(("dynamic_batching",)) == 1


def test_scalars_are_read_as_written() -> None:
    tree = read(TEXT)
    assert [node.scalar for node in tree.all("name")] == ["ab"]
    names = [node.all("name")[0].scalar for node in tree.all("input")]
    assert names == ["x # no comment", "y\n"]
    assert [node.scalar for node in tree.all("input")[0].all("dims")] == ["1", "-1"]


def test_map_entries_keep_keys_that_are_there_twice() -> None:
    step = read(TEXT).all("step")[0]
    assert step.entries("input_map") == [("i", "t", 10), ("i", "u", 10)]


def test_paths_read_as_in_code() -> None:
    assert path_text(("input", 0, "dims", 2)) == "input[0].dims[2]"
    assert path_text(()) == ""


@given(st.text(alphabet="ab:{}[]<>,;\"'#\\\n -0é", max_size=80))
def test_reads_any_text(text: str) -> None:
    last = text.count("\n") + 1
    assert all(1 <= token.line <= last for token in tokens(text))
    assert all(1 <= node.line <= last for node in below(read(text)))


def below(node: Node) -> list[Node]:
    return [node, *(each for field in node.fields for each in below(field))]
