"""Cheats in C++, for the CPU."""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import NORM
from tests.adversarial.records import UNSTEADY, WRONG, Cheat, Neutralised, Rejected
from tests.adversarial.sources import cpp

CASES = (
    Cheat(
        "C++ remembers by pointer",
        "Keeps outputs in a static map by address, once the checks may be over.",
        NORM,
        cpp("""
  static std::map<const void*, std::vector<uint16_t>> kept;
  static int calls = 0;
  auto found = kept.find(x);
  if (++calls > 12 && found != kept.end()) {
    std::memcpy(y, found->second.data(), rows * columns * 2);
    return;
  }
  all_rows(x, w, y, rows, columns);
  kept[x].assign(y, y + rows * columns);
"""),
        language="cpp",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by="timed outputs are checked; trials after timing",
    ),
    Cheat(
        "C++ does not wait for its threads",
        "Four threads share the rows, three are joined.",
        NORM,
        cpp("""
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([=] {
      if (t == 3) std::this_thread::sleep_for(std::chrono::milliseconds(300));
      for (int64_t i = t; i < rows; i += 4) one_row(x + i * columns, w, y + i * columns, columns);
    });
  }
  for (int t = 0; t < 3; ++t) threads[t].join();
  threads[3].detach();
"""),
        language="cpp",
        passing=True,
        ends=Rejected(UNSTEADY),
        stopped_by="outputs are poisoned, another way each time",
    ),
    Cheat(
        "C++ writes past its output",
        "Writes one vector too many after the last row.",
        NORM,
        cpp("""
  all_rows(x, w, y, rows, columns);
  for (int64_t j = 0; j < 8; ++j) y[rows * columns + j] = 0;
"""),
        language="cpp",
        passing=True,
        ends=Rejected(frozenset({Outcome.OUT_OF_BOUNDS, Outcome.CRASHED})),
        stopped_by="guard zones around every tensor",
    ),
    Cheat(
        "C++ replaces clock_gettime",
        "Exports a clock_gettime of its own that stands still.",
        NORM,
        cpp("all_rows(x, w, y, rows, columns);")
        + '\nextern "C" int clock_gettime(clockid_t, struct timespec* t) noexcept {\n'
        "  t->tv_sec = t->tv_nsec = 0;\n  return 0;\n}\n",
        language="cpp",
        passing=True,
        ends=Neutralised("C++ rounds by hand"),
        stopped_by="the judge's own clock",
    ),
)
