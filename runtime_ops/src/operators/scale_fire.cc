#include <cmath>

#include "../kernels/plant.h"
#include "node.h"

namespace snn {
namespace {

int depth_for(size_t thresholds) {
  for (int depth : kDepths) {
    if (thresholds < (size_t{1} << depth)) return depth;
  }
  return 0;
}

// Both tables of one node, in the type that its kernel computes in.
struct Staircase {
  int depth = 0;
  double widest = 0;  // the largest magnitude of a threshold or level
  union {
    Tables<float> floats;
    Tables<double> doubles;
  };

  Staircase() {}

  ort::Status* build(const Node& node, const Tensor& thresholds, const Tensor& levels) {
    if (thresholds.shape.rank != 1 || levels.shape.rank != 1) {
      return node.refuse("thresholds and levels must have rank 1, got %zu and %zu", thresholds.shape.rank, levels.shape.rank);
    }
    if (thresholds.count < 1 || thresholds.count > kMaxThresholds) {
      return node.refuse("%zu thresholds, must be 1..%d", thresholds.count, kMaxThresholds);
    }
    if (levels.count != thresholds.count + 1) {
      return node.refuse("%zu levels for %zu thresholds, must be one more", levels.count, thresholds.count);
    }
    const Element element = node.element();
    widest = 0;
    for (size_t i = 0; i < levels.count; ++i) {
      const double level = element_value(element, levels.data, i);
      if (!std::isfinite(level)) return node.refuse("levels[%zu] = %g must be finite", i, level);
      widest = std::fmax(widest, std::fabs(level));
    }
    for (size_t i = 0; i < thresholds.count; ++i) {
      const double threshold = element_value(element, thresholds.data, i);
      if (!std::isfinite(threshold)) return node.refuse("thresholds[%zu] = %g must be finite", i, threshold);
      if (i > 0 && threshold < element_value(element, thresholds.data, i - 1)) {
        return node.refuse("thresholds[%zu] = %g is below the one before, %g: they must ascend", i, threshold,
                           element_value(element, thresholds.data, i - 1));
      }
      widest = std::fmax(widest, std::fabs(threshold));
    }
    depth = depth_for(thresholds.count);
    const auto threshold_at = [&](size_t i) { return element_value(element, thresholds.data, i); };
    const auto level_at = [&](size_t i) { return element_value(element, levels.data, i); };
    if (element == kFloat64) {
      plant(thresholds.count, threshold_at, level_at, depth, doubles);
    } else {
      plant(thresholds.count, threshold_at, level_at, depth, floats);
    }
    return nullptr;
  }

  ort::Status* check_scale(const Node& node, const Tensor& scale) const {
    if (ort::Status* status = node.check_per_channel("scale", scale)) return status;
    for (size_t i = 0; i < scale.count; ++i) {
      const double value = element_value(node.element(), scale.data, i);
      if (!product_fits(node.element(), value, widest)) {
        return node.refuse("scale[%zu] = %g times %g, the largest threshold or level, overflows %s", i, value, widest,
                           element_name(node.element()));
      }
    }
    return nullptr;
  }
};

struct State {
  Node node;
  int64_t axis = 1;
  bool is_built = false;       // thresholds and levels are constant: built when the kernel was created
  bool scale_checked = false;  // scale is constant too, and was found good
  Staircase staircase;

  State(const Operator& op, const ort::KernelInfo* info) : node(op, info) {}

  ort::Status* prepare(const ort::KernelInfo* info) {
    if (ort::Status* status = node.read_int(info, "axis", axis)) return status;
    Tensor scale, thresholds, levels;
    bool has_scale = false, has_thresholds = false, has_levels = false;
    if (ort::Status* status = node.read_constant(info, 1, "scale", scale, has_scale)) return status;
    if (ort::Status* status = node.read_constant(info, 2, "thresholds", thresholds, has_thresholds)) return status;
    if (ort::Status* status = node.read_constant(info, 3, "levels", levels, has_levels)) return status;
    is_built = has_thresholds && has_levels;
    if (!is_built) return nullptr;
    if (ort::Status* status = staircase.build(node, thresholds, levels)) return status;
    scale_checked = has_scale;
    return has_scale ? staircase.check_scale(node, scale) : nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    if (is_built) return compute(context, staircase);
    Tensor thresholds, levels;
    if (ort::Status* status = node.read_input(context, 2, "thresholds", thresholds)) return status;
    if (ort::Status* status = node.read_input(context, 3, "levels", levels)) return status;
    Staircase current;
    if (ort::Status* status = current.build(node, thresholds, levels)) return status;
    return compute(context, current);
  }

  ort::Status* compute(ort::KernelContext* context, const Staircase& current) const {
    Tensor x, scale;
    if (ort::Status* status = node.read_input(context, 0, "X", x)) return status;
    if (ort::Status* status = node.read_input(context, 1, "scale", scale)) return status;
    if (!scale_checked) {
      if (ort::Status* status = current.check_scale(node, scale)) return status;
    }
    Layout layout;
    if (ort::Status* status = node.lay_out("scale", scale, axis, x.shape, layout)) return status;
    void* y = nullptr;
    if (ort::Status* status = node.make_output(context, x.shape, y)) return status;
    const void* tables = node.element() == kFloat64 ? static_cast<const void*>(&current.doubles) : &current.floats;
    Work<ScaleParameters> work{node.kernels().scale[node.element()], x.data, y, x.count, kChunk, layout,
                               {scale.data, tables, current.depth}};
    return work.run(node.api(), context);
  }
};

const char* ORT_CALL name(const ort::CustomOp*) { return "ScaleFire"; }
size_t ORT_CALL inputs(const ort::CustomOp*) { return 4; }

}  // namespace

void describe_scale_fire(Operator& op) {
  describe(op, name, inputs);
  use_state<State>(op);
}

}  // namespace snn
