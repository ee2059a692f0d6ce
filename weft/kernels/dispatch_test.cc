// The choice of a CPU path: by processor, by name, by WEFT_KERNEL; and its refusals.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "weft/kernels/kernels.h"

namespace weft::kernels {
namespace {

class Forced {
 public:
  explicit Forced(const char* path) {
    if (const char* old = std::getenv("WEFT_KERNEL")) old_ = old;
    if (path)
      setenv("WEFT_KERNEL", path, 1);
    else
      unsetenv("WEFT_KERNEL");
  }
  ~Forced() {
    if (old_.empty())
      unsetenv("WEFT_KERNEL");
    else
      setenv("WEFT_KERNEL", old_.c_str(), 1);
  }

 private:
  std::string old_;
};

std::string refusal(const char* path) {
  const Forced forced(path);
  try {
    cpu_kernels();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
    return error.what();
  }
  return "";
}

TEST(Dispatch, TakesTheBestPath) {
  const Forced forced(nullptr);
  EXPECT_EQ(cpu_kernels().name(), available_cpu_paths().back());
  const std::vector<std::string_view> available = available_cpu_paths();
  EXPECT_NE(std::find(available.begin(), available.end(), "portable"), available.end());
  EXPECT_NE(cpu_kernels().name(), "emulated");
  EXPECT_EQ(has_fast_bf16(), cpu_kernels().name() == "amx" || cpu_kernels().name() == "avx512_bf16");
}

TEST(Dispatch, TakesTheForcedPath) {
  for (std::string_view path : available_cpu_paths()) {
    const Forced forced(std::string(path).c_str());
    EXPECT_EQ(cpu_kernels().name(), path);
    EXPECT_EQ(&cpu_kernels(), &cpu_kernels(path));
  }
  const Forced forced("reference");
  EXPECT_EQ(&cpu_kernels(), &reference_kernels());
}

TEST(Dispatch, RefusesWhatIsNotThere) {
  const std::string unknown = refusal("avx3");
  EXPECT_NE(unknown.find("'avx3'"), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("portable"), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("WEFT_KERNEL"), std::string::npos) << unknown;
  for (std::string_view path : known_cpu_paths()) {
    bool available = false;
    for (std::string_view each : available_cpu_paths()) available |= each == path;
    if (available) continue;
    const std::string missing = refusal(std::string(path).c_str());
    EXPECT_NE(missing.find("lacks"), std::string::npos) << missing;
    EXPECT_NE(missing.find(path), std::string::npos) << missing;
  }
}

}  // namespace
}  // namespace weft::kernels
