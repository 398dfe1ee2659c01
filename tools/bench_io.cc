#include "tools/bench_io.h"

#include "tools/bench_case.h"
#include "tools/bench_result.h"

namespace clonefs::bench {

std::vector<std::string> io_cases() {
  std::vector<std::string> names;
  for (const auto* cases : {&data_cases(), &name_cases()}) {
    for (const auto& [name, function] : *cases) names.push_back(name);
  }
  return names;
}

nlohmann::json run_io(const std::string& name, const IoOptions& options) {
  for (const auto* cases : {&data_cases(), &name_cases()}) {
    for (const auto& [known, function] : *cases) {
      if (known != name) continue;
      Case c(name, options);
      try {
        function(c);
      } catch (const Impossible& e) {
        c.missing(name, e.why);
      }
      return c.rows();
    }
  }
  throw Impossible{"there is no case '" + name + "'"};
}

}  // namespace clonefs::bench
