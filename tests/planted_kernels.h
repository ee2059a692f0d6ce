// Kernels that do what others do except for one thing: for tests that plant a fault or an error.
//
//   class Deaf final : public PassOnKernels {
//     void attend(const kernels::AttendArgs& args) const override { ...; base().attend(changed); }
//   };
#pragma once

#include <algorithm>
#include <vector>

#include "weft/kernels/element.h"
#include "weft/kernels/kernels.h"

namespace weft {

// Hands every call to another set. A test overrides the calls that it is about.
class PassOnKernels : public kernels::KernelSet {
 public:
  explicit PassOnKernels(const KernelSet& base = kernels::cpu_kernels()) : base_(base) {}
  std::string_view name() const override { return "planted"; }
  bool supports(DType element) const override { return base_.supports(element); }
  void attend(const kernels::AttendArgs& args) const override { base_.attend(args); }
  void attend_backward(const kernels::AttendBackwardArgs& args) const override { base_.attend_backward(args); }
  void prepare_backward(kernels::View delta, kernels::ConstView out, kernels::ConstView dout, kernels::ConstView dlse,
                        kernels::Shape shape) const override {
    base_.prepare_backward(delta, out, dout, dlse, shape);
  }
  void merge(kernels::View o, kernels::View lse, kernels::ConstView from_o, kernels::ConstView from_lse,
             kernels::Shape shape) const override {
    base_.merge(o, lse, from_o, from_lse, shape);
  }
  void add(kernels::View to, kernels::ConstView from, kernels::Shape shape) const override {
    base_.add(to, from, shape);
  }
  void convert(kernels::View to, kernels::ConstView from, kernels::Shape shape) const override {
    base_.convert(to, from, shape);
  }

 protected:
  const KernelSet& base() const { return base_; }

 private:
  const KernelSet& base_;
};

// Every block of both passes is changed by `change(kernels::Block&)`.
template <typename Change>
class ChangedBlocks final : public PassOnKernels {
 public:
  ChangedBlocks(Change change, const KernelSet& base) : PassOnKernels(base), change_(change) {}
  void attend(const kernels::AttendArgs& args) const override { base().attend(changed(args).args); }
  void attend_backward(const kernels::AttendBackwardArgs& args) const override {
    base().attend_backward(changed(args).args);
  }

 private:
  template <typename Args>
  struct Changed {
    std::vector<kernels::Block> blocks;
    Args args;
  };
  template <typename Args>
  Changed<Args> changed(const Args& given) const {
    Changed<Args> result{{given.blocks.begin(), given.blocks.end()}, given};
    for (kernels::Block& block : result.blocks) change_(block);
    std::erase_if(result.blocks, [](const kernels::Block& block) { return block.band.k.empty(); });
    result.args.blocks = result.blocks;  // a move of the vector keeps its elements where they are
    return result;
  }
  Change change_;
};

}  // namespace weft
