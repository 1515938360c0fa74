// ScaleFire, and DualScaleFire, which is the same under another name.
#include <cmath>

#include "node.h"

namespace snn {
namespace {

constexpr int64_t kMaxLinear = 2048;

// All integers up to m, every second one up to 2 m, every fourth one up to 4 m and so on, for an even m:
// the end of an octave is a level of the next one, too.
bool is_level(int64_t level, int64_t linear) {
  if (level > linear && linear % 2 != 0) return false;
  int64_t step = 1;
  while (level > linear * step) step *= 2;
  return level % step == 0;
}

struct State {
  Node node;
  int64_t axis = 1;
  int64_t linear = 1;
  int64_t top_pos = 1;
  int64_t top_neg = 0;
  bool scale_checked = false;  // constant, and found good when the kernel was created

  State(const Operator& op, const ort::KernelInfo* info) : node(op, info) {}

  ort::Status* read_top(const ort::KernelInfo* info, const char* name, int64_t& top) const {
    if (ort::Status* status = node.read_int_in(info, name, top, 0, kMaxLevels)) return status;
    if (is_level(top, linear)) return nullptr;
    return node.refuse("%s = %lld is no level of linear = %lld", name, static_cast<long long>(top),
                       static_cast<long long>(linear));
  }

  ort::Status* check_scale(const Tensor& scale) const {
    if (ort::Status* status = node.check_per_channel("scale", scale)) return status;
    const double most = static_cast<double>(top_pos > top_neg ? top_pos : top_neg);
    for (size_t i = 0; i < scale.count; ++i) {
      const double value = element_value(node.element(), scale.data, i);
      if (!product_fits(node.element(), value, most)) {
        return node.refuse("scale[%zu] = %g times the level %g overflows %s", i, value, most, element_name(node.element()));
      }
      if (!std::isfinite(scaled_reciprocal(node.element(), value, 1.0))) {
        return node.refuse("1 / scale[%zu] = 1 / %g overflows", i, value);
      }
    }
    return nullptr;
  }

  ort::Status* prepare(const ort::KernelInfo* info) {
    if (ort::Status* status = node.read_int(info, "axis", axis)) return status;
    if (ort::Status* status = node.read_int_in(info, "linear", linear, 1, kMaxLinear)) return status;
    if (ort::Status* status = read_top(info, "top_pos", top_pos)) return status;
    if (ort::Status* status = read_top(info, "top_neg", top_neg)) return status;
    if (top_pos + top_neg == 0) return node.refuse("top_pos = 0 and top_neg = 0: it never fires");
    Tensor scale;
    if (ort::Status* status = node.read_constant(info, 1, "scale", scale, scale_checked)) return status;
    return scale_checked ? check_scale(scale) : nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    Tensor x, scale;
    if (ort::Status* status = node.read_input(context, 0, "X", x)) return status;
    if (ort::Status* status = node.read_input(context, 1, "scale", scale)) return status;
    if (!scale_checked) {
      if (ort::Status* status = check_scale(scale)) return status;
    }
    Layout layout;
    if (ort::Status* status = node.lay_out("scale", scale, axis, x.shape, layout)) return status;
    void* y = nullptr;
    if (ort::Status* status = node.make_output(context, x.shape, y)) return status;
    Work<OctaveParameters> work{node.kernels().scale[node.element()], x.data, y, x.count, kChunk, layout,
                                {scale.data, static_cast<float>(linear), static_cast<float>(top_pos), static_cast<float>(top_neg)}};
    return work.run(node.api(), context);
  }
};

const char* ORT_CALL name(const ort::CustomOp*) { return "ScaleFire"; }
const char* ORT_CALL dual_name(const ort::CustomOp*) { return "DualScaleFire"; }
size_t ORT_CALL inputs(const ort::CustomOp*) { return 2; }

}  // namespace

void describe_scale_fire(Operator& op) {
  describe(op, name, inputs);
  use_state<State>(op);
}

void describe_dual_scale_fire(Operator& op) {
  describe(op, dual_name, inputs);
  use_state<State>(op);
}

}  // namespace snn
