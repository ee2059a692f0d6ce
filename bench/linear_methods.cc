// The methods of linear layers by bytes, messages and times, from closed forms alone: the tables of docs/linear.md.
#include <cstdio>
#include <string>

#include "weft/methods/linear/choice.h"
#include "weft/methods/registry.h"

using namespace weft;

namespace {

Configuration configuration_of(Layer layer, int ranks) {
  Configuration c;
  c.layer = layer, c.ranks = ranks, c.tokens = int64_t{4096} * ranks, c.mask.causal = true, c.backward = true;
  c.heads = c.kv_heads = 64, c.dim = c.dim_v = 128, c.element = DType::bf16, c.wire = DType::fp32;
  return c;
}

constexpr int kRanks[] = {8, 64, 1024};

void print_volumes(Layer layer) {
  std::printf("\n| `%s`, MiB sent by the busiest rank, messages of all | 8 | 64 | 1,024 |\n|---|---|---|---|\n",
              name_of(layer));
  for (const Method* method : linear_methods()) {
    std::printf("| `%s` |", std::string(method->name).c_str());
    for (const int ranks : kRanks) {
      const Formula f =
          formula_of(*method, configuration_of(layer, ranks), MethodOptions(method->name, method->options, {}));
      if (!f.known()) {
        std::printf(" - |");
        continue;
      }
      std::printf(" %.1f, %lld |", static_cast<double>(f.forward.bytes.busiest) / (1 << 20),
                  static_cast<long long>(f.forward.messages.total));
    }
    std::printf("\n");
  }
}

struct Place {
  const char* name;
  Machine machine;
};

std::string in_ms(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", seconds < 1e-2 ? 2 : seconds < 1e-1 ? 1 : 0, 1e3 * seconds);
  return text;
}

void print_times(Layer layer, const Place& place) {
  std::printf("\n| `%s`, %s: ms | 8 | 64 | 1,024 |\n|---|---|---|---|\n", name_of(layer), place.name);
  std::vector<LinearChoice> choices;
  for (const int ranks : kRanks) choices.push_back(choose_linear_method(configuration_of(layer, ranks), place.machine));
  for (const Method* method : linear_methods()) {
    std::printf("| `%s` |", std::string(method->name).c_str());
    for (const LinearChoice& choice : choices) {
      const LinearTime* found = nullptr;
      for (const LinearTime& time : choice.times) {
        if (time.method == method->name) found = &time;
      }
      if (!found) {
        std::printf(" - |");
        continue;
      }
      const char* mark = choice.method == method->name ? "**" : "";
      std::printf(" %s%s + %s%s |", mark, in_ms(found->work).c_str(), in_ms(found->waiting).c_str(), mark);
    }
    std::printf("\n");
  }
}

}  // namespace

int main() {
  const Place places[] = {
      {"ranks of 100 TFLOP/s, nodes of 8 with 300 GB/s and 3 us inside, 25 GB/s and 8 us between",
       {.operations = 1e14, .network = {8e-6, 25e9}, .node = 8, .inside = {3e-6, 300e9}}},
      {"ranks of 100 TFLOP/s, 25 GB/s and 8 us", {.operations = 1e14, .network = {8e-6, 25e9}}},
      {"ranks of 100 GFLOP/s, 1 GB/s and 50 us", {.operations = 1e11, .network = {5e-5, 1e9}}},
  };
  for (const Layer layer : {Layer::gla, Layer::gdn}) {
    print_volumes(layer);
    for (const Place& place : places) print_times(layer, place);
  }
}
