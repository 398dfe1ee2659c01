// REQUIRE: what must hold for every case of a fuzzer. The end of the process is what libFuzzer and
// ctest both take for a finding.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#define REQUIRE(condition, text)                                                              \
  do {                                                                                        \
    if (!(condition)) {                                                                       \
      const std::string require_text = (text);                                                \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition,                 \
                   require_text.c_str());                                                     \
      std::abort();                                                                           \
    }                                                                                         \
  } while (false)
