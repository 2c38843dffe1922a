"""Reading replies: every form that models use, nothing guessed, nothing edited, nothing raised."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.domain.conversation import Finish
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.task import LANGUAGES
from kernel_generator.prompts import replies
from kernel_generator.prompts.render import fenced
from kernel_generator.prompts.replies import (
    Unreadable,
    destination_passing_style,
    read_files,
    read_solution,
)
from tests.prompts import records

CODE = "def run(x, scale):\n    return x * scale\n"
DRAFT = Proposal(purpose=Purpose.DRAFT, round=1)


def files(text: str, language: str = "triton") -> dict[str, str]:
    read = read_files(text, language)
    assert not isinstance(read, Unreadable), read.reason
    return {f.path: f.content for f in read}


def reason(text: str, language: str = "triton") -> str:
    read = read_files(text, language)
    assert isinstance(read, Unreadable), read
    return read.reason


@pytest.mark.parametrize(
    "before_and_fence",
    [
        "```python main.py",
        "```main.py",
        "```python:main.py",
        '``` python title="main.py"',
        "```python {filename='main.py'}",
        "```python path=main.py",
        "~~~python main.py",
        "`````python ./main.py",
        "### main.py\n\n```python",
        "**main.py**\n```python",
        "**`main.py`**:\n```python",
        "`main.py`\n```python",
        "File: main.py\n```python",
        "1. `main.py`:\n```python",
        "Here is the new main.py:\n\n```python",
    ],
)
def test_a_fence_is_named_by_its_info_string_or_the_line_before(before_and_fence: str) -> None:
    fence = before_and_fence.rsplit("\n", 1)[-1]
    mark = fence[: len(fence) - len(fence.lstrip("`~"))]
    helper = "\n```python helper.py\nHELP = 1\n```\n"
    text = f"I thought about it.\n\n{before_and_fence}\n{CODE}{mark}\n{helper}That is all."
    assert files(text) == {"main.py": CODE, "helper.py": "HELP = 1\n"}


@pytest.mark.parametrize(
    ("language", "comment", "path"),
    [
        ("triton", "# main.py", "main.py"),
        ("python", "# File: main.py", "main.py"),
        ("cuda", "// kernel.cu", "kernel.cu"),
        ("cpp", "/* kernel.cpp */", "kernel.cpp"),
    ],
)
def test_a_fence_is_named_by_a_first_line_comment_which_stays(
    language: str, comment: str, path: str
) -> None:
    code = f"{comment}\nint x;\n"
    text = f"```\n{code}```\n\n```bash\nmake\n```\n\n```text\nout\n```"
    assert files(text, language) == {path: code}


@pytest.mark.parametrize(
    "tagged",
    [
        f'<file path="main.py">\n{CODE}</file>',
        f"<file name='main.py'>\n{CODE}</file>",
        f'<FILE filename="main.py" kind="source">\n{CODE}</FILE>',
        f'<file path="main.py"><![CDATA[\n{CODE}]]></file>',
        f'<file path="main.py">\n<![CDATA[\n{CODE}]]>\n</file>',
        f'<file path="main.py">\n```python\n{CODE}```\n</file>',
        f'<files>\n  <file path="main.py">\n{CODE}</file>\n</files>',
    ],
)
def test_tagged_files_are_read(tagged: str) -> None:
    assert files(f"Sure.\n{tagged}\nDone.") == {"main.py": CODE}


def test_one_block_without_a_name_is_the_entry_file() -> None:
    assert files(f"Here it is.\n```python\n{CODE}```\nEnjoy.") == {"main.py": CODE}


def test_blocks_of_other_languages_are_no_files() -> None:
    text = f"```bash\npip install triton\n```\n```python\n{CODE}```\n```json\n{{}}\n```"
    assert files(text) == {"main.py": CODE}


def test_of_several_blocks_without_names_the_one_that_defines_the_entry_is_taken() -> None:
    text = f"Instead of\n```python\ny = x * 2\n```\nI write\n```python\n{CODE}```"
    assert files(text) == {"main.py": CODE}


def test_two_programs_without_names_are_ambiguous() -> None:
    other = CODE.replace("*", "+")
    assert "which one is meant cannot be told" in reason(
        f"```python\n{CODE}```\nor\n```python\n{other}```"
    )


def test_the_same_program_twice_is_one_program() -> None:
    assert files(f"```python\n{CODE}```\nFinal:\n```python\n{CODE}```") == {"main.py": CODE}


def test_fragments_alone_are_not_put_together() -> None:
    text = "```python\nimport torch\n```\n```python\ny = 1\n```"
    assert "defines `run`" in reason(text)


def test_one_file_given_twice_differently_is_unreadable() -> None:
    text = f"```python main.py\n{CODE}```\n```python main.py\n{CODE}# more\n```"
    assert "main.py is given twice" in reason(text)


def test_a_missing_entry_file_is_named() -> None:
    assert "The entry file kernel.cu is missing; the reply names other.cu" in reason(
        "```cuda other.cu\nint x;\n```", "cuda"
    )


def test_a_fence_inside_a_longer_fence_is_content() -> None:
    code = f'"""Use it:\n```\nrun(x)\n```\n"""\n{CODE}'
    assert files(f"````python main.py\n{code}````") == {"main.py": code}


def test_an_indented_fence_in_a_docstring_is_content() -> None:
    code = 'def run(x):\n    """\n    ```\n    run(x)\n    ```\n    """\n    return x\n'
    assert files(f"```python main.py\n{code}```") == {"main.py": code}


def test_a_fence_in_a_list_loses_only_the_lists_indentation() -> None:
    text = "1. The file:\n   ```python main.py\n   def run(x):\n       return x\n   ```"
    assert files(text) == {"main.py": "def run(x):\n    return x\n"}


def test_an_unterminated_fence_is_a_cut_reply() -> None:
    assert "never closed" in reason(f"```python helper.py\na = 1\n```\n```python main.py\n{CODE}")


def test_an_unterminated_tag_is_a_cut_reply() -> None:
    assert "never closed" in reason(f'<file path="main.py">\n{CODE}')


def test_prose_alone_is_unreadable_with_the_way_to_answer() -> None:
    assert "```cuda kernel.cu" in reason("I would tile the matrix.", "cuda")


def test_windows_line_ends_stay_in_the_file() -> None:
    code = CODE.replace("\n", "\r\n")
    assert files(f"```python main.py\r\n{code}```\r\n") == {"main.py": code}


def test_a_leading_reasoning_section_is_no_part_of_the_answer() -> None:
    text = f"<think>\n```python main.py\nwrong = 1\n```\n</think>\n```python main.py\n{CODE}```"
    assert files(text) == {"main.py": CODE}


def test_code_that_does_not_parse_is_the_compilers_matter() -> None:
    assert files("```python main.py\ndef run(x:\n```") == {"main.py": "def run(x:\n"}


@pytest.mark.parametrize(
    "path",
    ["../main.py", "/etc/main.py", "a/../main.py", "a//main.py", "~/main.py", "C:\\main.py",
     "a b.py", ".hidden.py", "a/.hidden.py", "é.py", "a" * 200 + ".py", "main.py/", ""],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_unreadable(path: str) -> None:
    text = f'<file path="{path}">\nx = 1\n</file>\n```python main.py\n{CODE}```'
    assert isinstance(read_files(text, "triton"), Unreadable)


def test_a_file_that_is_also_a_folder_is_unreadable() -> None:
    text = f'```python main.py\n{CODE}```\n<file path="main.py/a.py">\nx = 1\n</file>'
    assert "also given as a file" in reason(text)


def test_nul_bytes_lone_surrogates_and_huge_replies_are_unreadable() -> None:
    assert "NUL" in reason(f"```python main.py\n{CODE}\0```")
    assert "surrogate" in reason("```python main.py\n\ud800\n```")
    assert "bytes" in reason("x" * (replies.MAX_REPLY_BYTES + 1))


def test_an_empty_file_is_unreadable() -> None:
    assert "main.py is empty" in reason("```python main.py\n\n```")


def test_too_many_files_are_unreadable() -> None:
    text = "".join(f"```python f{i}.py\nx = 1\n```\n" for i in range(replies.MAX_FILES))
    assert "files; at most" in reason(f"```python main.py\n{CODE}```\n{text}")


@pytest.mark.parametrize(
    "piece",
    ["`", "```\n", "~~~a\n", "<file ", "<file>\n", '<file path="a">\n', "# ", "{title=", " "],
)
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        start = time.process_time()
        read_files(text, "triton")
        return time.process_time() - start

    # Quadratic reading would take a hundred times as long on ten times the text.
    assert seconds(1_000_000) < 40 * max(seconds(100_000), 0.01)


MARKED = st.lists(
    st.one_of(
        st.sampled_from(
            ["```", "````", "~~~", "\n", "\r\n", "python", " ", "main.py", "../x.py", '"', "`",
             "<file", ' path="main.py"', ">", "</file>", "<![CDATA[", "]]>", "<think>", "</think>",
             "def run(x):", "# kernel.cu", "title=", "\0", "\ud800", "    "]
        ),
        st.text(st.characters(), max_size=8),
    ),
    max_size=40,
).map("".join)  # fmt: skip


@given(text=MARKED, language=st.sampled_from(LANGUAGES))
def test_reading_never_raises_and_gives_the_entry_file_or_a_reason(
    text: str, language: str
) -> None:
    read = read_solution(records.reply(text), records.brief(language), DRAFT, "a", "n")
    if isinstance(read, Unreadable):
        assert read.reason
    else:
        assert read.get_entry_source() is not None


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"), max_size=30)
CONTENTS = st.lists(LINES, min_size=1, max_size=8).map(lambda ls: "\n".join(ls).rstrip() + "\n")
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}(/[a-z][a-z0-9_]{0,8}){0,2}\.py", fullmatch=True)


@given(
    entry=CONTENTS.filter(str.strip),
    others=st.dictionaries(NAMES, CONTENTS.filter(str.strip), max_size=3),
)
def test_well_formed_files_come_back_as_they_were(entry: str, others: dict[str, str]) -> None:
    written = others | {"main.py": entry}
    text = "\n\n".join(fenced(content, f"python {path}") for path, content in written.items())
    assert files(f"Here.\n\n{text}\n\nDone.") == written


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_reply_becomes_a_solution_of_the_definition(language: str) -> None:
    path, content = records.SOURCES[language]
    text = fenced(content, path)
    solution = read_solution(
        records.reply(text), records.brief(language), DRAFT, author="model", name="a_name"
    )
    assert not isinstance(solution, Unreadable)
    assert solution.name == "a_name"
    assert solution.author == "model"
    assert solution.definition == records.DEFINITION.name
    assert solution.spec.language.value == language
    assert solution.spec.entry_point == f"{path}::run"
    assert solution.spec.target_hardware == [records.brief(language).target.name]
    assert (solution.spec.binding is not None) == (language in ("cuda", "cpp"))
    assert solution.spec.destination_passing_style == (language != "python")


@pytest.mark.parametrize(
    ("source", "triton", "python"),
    [
        ("def run(x, scale, out): ...", True, True),
        ("def run(x, scale): ...", False, False),
        ("def run(x, /, scale, *, out): ...", True, True),
        ("def run(x): ...", True, False),
        ("def run(*args): ...", True, False),
        ("def run(x, scale: ...", True, False),
        ("from helper import run", True, False),
        ("def run(x): ...\ndef run(x, scale): ...", False, False),
        ("(" * 5000, True, False),
    ],
)
def test_the_style_is_told_by_the_number_of_parameters(
    source: str, triton: bool, python: bool
) -> None:
    assert destination_passing_style(source, records.DEFINITION, "triton") is triton
    assert destination_passing_style(source, records.DEFINITION, "python") is python


@pytest.mark.parametrize(
    ("finish", "text", "outcome"),
    [
        (Finish.REFUSED, "", Outcome.REFUSED_REPLY),
        (Finish.LENGTH, f"```python main.py\n{CODE}```", Outcome.TRUNCATED_REPLY),
        (Finish.EMPTY, "", Outcome.EMPTY_REPLY),
        (Finish.COMPLETE, " \n", Outcome.EMPTY_REPLY),
        (Finish.COMPLETE, "no code", Outcome.MALFORMED_REPLY),
    ],
)
def test_a_reply_without_a_solution_says_which_outcome_it_is(
    finish: Finish, text: str, outcome: Outcome
) -> None:
    reply = records.reply(text, finish, detail="because")
    read = read_solution(reply, records.brief(), DRAFT, "a", "n")
    assert isinstance(read, Unreadable)
    assert read.outcome is outcome
