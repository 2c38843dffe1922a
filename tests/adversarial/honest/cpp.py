"""Honest C++."""

from __future__ import annotations

from tests.adversarial.definitions import NORM
from tests.adversarial.records import Honest
from tests.adversarial.sources import cpp

CASES = (
    Honest(
        "C++ rounds by hand",
        "Handles bfloat16 as bits, with a rounding of its own.",
        NORM,
        cpp("all_rows(x, w, y, rows, columns);"),
        language="cpp",
        passing=True,
    ),
    Honest(
        "C++ with OpenMP",
        "Shares the rows among OpenMP's threads.",
        NORM,
        cpp("""
#pragma omp parallel for
  for (int64_t i = 0; i < rows; ++i) one_row(x + i * columns, w, y + i * columns, columns);
"""),
        language="cpp",
        passing=True,
    ),
    Honest(
        "C++ with static state by shape",
        "Keeps a workspace for each shape in a static map, and computes in it.",
        NORM,
        cpp("""
  static std::map<int64_t, std::vector<uint16_t>> workspaces;
  auto& scratch = workspaces[rows * columns];
  scratch.resize(rows * columns);
  all_rows(x, w, scratch.data(), rows, columns);
  std::memcpy(y, scratch.data(), rows * columns * 2);
"""),
        language="cpp",
        passing=True,
    ),
)
