"""What a reading of the source notices, and that reading a hostile one comes to an end."""

from __future__ import annotations

import pytest

from kernel_generator.evaluation.labels import labels_of, without_comments
from tests.evaluation.judging import solution

MEGABYTES = 10_000_000
SWALLOWS = "catches exceptions without raising them again"
LONG = "is longer than what is read of a source"


def native(source: str) -> tuple[str, ...]:
    return labels_of(solution(source, language="cpp", passing=True))


class TestCommentsOfCpp:
    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("a // b\nc", "a  \nc"),
            ("a /* b\n * c */ d", "a   d"),
            ("a /* b", "a  "),
            ("a /* // */ b // /*\nc", "a   b  \nc"),
            ('"http://a" b', '"http://a" b'),
            (r'"\"//" b // c', r'"\"//" b  '),
            ("'\"' // \"\nb", "'\"'  \nb"),
            (r"'\'' /* ' */ b", r"'\''   b"),
            ("u8'\"' // b", "u8'\"'  "),
            ("1'000 /* b */ c", "1'000   c"),
            ('"no end /* \n a /* b */', '"no end /* \n a  '),
            ('R"(/* " )" a /* b */', 'R"(/* " )" a  '),
            ('u8R"x(/* )" )x" a // b', 'u8R"x(/* )" )x" a  '),
            ('R"x(/* )" ', 'R"x(/* )" '),
            ("a / b /", "a / b /"),
        ],
    )
    def test_are_left_out_and_texts_are_not(self, text: str, left: str) -> None:
        assert without_comments(text) == left

    def test_hide_what_is_said_in_them_only(self) -> None:
        assert native("/* cublas */ // at::mm\n") == ()
        assert native('auto a = "//"; cublasCreate(b);') != ()

    @pytest.mark.parametrize(
        "piece", ["/* ", "/", "*/", "/**/", '"', '\\"', "'", 'R"(', 'R"a( )b"', "u8", "# ", "\n/*'"]
    )
    def test_are_read_once_however_many_begin(self, piece: str) -> None:
        # Were each beginning read to the end, this would take days.
        text = piece * (MEGABYTES // len(piece))
        assert len(without_comments(text)) <= 2 * len(text)


class TestAHandler:
    def test_that_raises_at_any_depth_swallows_nothing(self) -> None:
        source = "try:\n    a()\nexcept A:\n    if b:\n        raise\n"
        assert labels_of(solution(source)) == ()

    def test_that_raises_nothing_swallows(self) -> None:
        assert labels_of(solution("try:\n    a()\nexcept A:\n    pass\n")) == (SWALLOWS,)

    def test_within_one_that_raises_swallows(self) -> None:
        source = (
            "try:\n    a()\nexcept A:\n"
            "    try:\n        b()\n    except B:\n        pass\n"
            "    raise\n"
        )
        assert labels_of(solution(source)) == (SWALLOWS,)

    def test_around_one_that_raises_does_not(self) -> None:
        source = "try:\n    a()\nexcept A:\n    try:\n        b()\n    except B:\n        raise\n"
        assert labels_of(solution(source)) == ()


@pytest.mark.parametrize("language", ["python", "cpp"])
def test_what_is_longer_than_anybody_writes_is_not_read_and_labelled_so(language: str) -> None:
    source = "/* import gc */ # " * (MEGABYTES // 18)
    assert labels_of(solution(source, language=language, passing=language == "cpp")) == (LONG,)


@pytest.mark.parametrize(
    "source", ["(" * 900_000, "-" * 900_000 + "1", "x" + ".a" * 400_000, "x = [" * 180_000]
)
def test_python_that_nests_too_deep_is_not_read(source: str) -> None:
    assert labels_of(solution(source)) == ()
