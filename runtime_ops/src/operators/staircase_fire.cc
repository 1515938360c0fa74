#include <cmath>

#include "../kernels/few_levels.h"
#include "node.h"

namespace snn {
namespace {

// A table in the forms that the kernels read.
struct Prepared {
  bool has_few = false;
  FewLevels few;
  float widened[kMaxCells];  // of a float16 node

  Prepared() {}

  void fill(Element element, const Tensor& table) {
    for (size_t i = 0; i < table.count; ++i) widened[i] = static_cast<float>(element_value(element, table.data, i));
    has_few = element != kFloat64 && few_levels(widened, static_cast<int>(table.count), few);
  }
};

struct State {
  Node node;
  int64_t axis = 1;
  float density = 1.0f;
  float start = 0.0f;
  bool table_checked = false;  // constant, and found good when the kernel was created
  bool scale_checked = false;  // so, and the table too
  double widest = 0;           // the largest magnitude of a level of that table
  Prepared prepared;           // from it

  State(const Operator& op, const ort::KernelInfo* info) : node(op, info) {}

  ort::Status* check_table(const Tensor& table, double& most) const {
    if (table.shape.rank != 1) return node.refuse("table must have rank 1, got %zu", table.shape.rank);
    if (table.count < 1 || table.count > kMaxCells) {
      return node.refuse("table has %zu cells, must be 1..%d", table.count, kMaxCells);
    }
    most = 0;
    for (size_t i = 0; i < table.count; ++i) {
      const double level = element_value(node.element(), table.data, i);
      if (!std::isfinite(level)) return node.refuse("table[%zu] = %g must be finite", i, level);
      most = std::fmax(most, std::fabs(level));
    }
    return nullptr;
  }

  ort::Status* check_scale(const Tensor& scale, double most) const {
    if (ort::Status* status = node.check_per_channel("scale", scale)) return status;
    for (size_t i = 0; i < scale.count; ++i) {
      const double value = element_value(node.element(), scale.data, i);
      if (!product_fits(node.element(), value, most)) {
        return node.refuse("scale[%zu] = %g times %g, the largest level, overflows %s", i, value, most,
                           element_name(node.element()));
      }
      const double rate = scaled_reciprocal(node.element(), value, static_cast<double>(density));
      if (!(rate > 0.0) || !std::isfinite(rate)) {
        return node.refuse("(1 / scale[%zu]) * density = (1 / %g) * %g must be finite and greater than 0", i, value,
                           static_cast<double>(density));
      }
    }
    return nullptr;
  }

  ort::Status* prepare(const ort::KernelInfo* info) {
    if (ort::Status* status = node.read_int(info, "axis", axis)) return status;
    if (ort::Status* status = node.read_float(info, "density", density)) return status;
    if (ort::Status* status = node.read_float(info, "start", start)) return status;
    if (!(density > 0.0f) || !std::isfinite(density)) {
      return node.refuse("density = %g must be finite and greater than 0", static_cast<double>(density));
    }
    if (!std::isfinite(start)) return node.refuse("start = %g must be finite", static_cast<double>(start));
    Tensor scale, table;
    bool has_scale = false;
    if (ort::Status* status = node.read_constant(info, 1, "scale", scale, has_scale)) return status;
    if (ort::Status* status = node.read_constant(info, 2, "table", table, table_checked)) return status;
    if (!table_checked) return nullptr;
    if (ort::Status* status = check_table(table, widest)) return status;
    prepared.fill(node.element(), table);
    scale_checked = has_scale;
    return has_scale ? check_scale(scale, widest) : nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    Tensor table;
    if (ort::Status* status = node.read_input(context, 2, "table", table)) return status;
    if (table_checked) return compute(context, table, prepared, widest);
    double most = 0;
    if (ort::Status* status = check_table(table, most)) return status;
    Prepared current;
    current.fill(node.element(), table);
    return compute(context, table, current, most);
  }

  ort::Status* compute(ort::KernelContext* context, const Tensor& table, const Prepared& current, double most) const {
    Tensor x, scale;
    if (ort::Status* status = node.read_input(context, 0, "X", x)) return status;
    if (ort::Status* status = node.read_input(context, 1, "scale", scale)) return status;
    if (!scale_checked) {
      if (ort::Status* status = check_scale(scale, most)) return status;
    }
    Layout layout;
    if (ort::Status* status = node.lay_out("scale", scale, axis, x.shape, layout)) return status;
    void* y = nullptr;
    if (ort::Status* status = node.make_output(context, x.shape, y)) return status;
    const void* cells = node.element() == kFloat16 ? current.widened : table.data;
    Work<StaircaseParameters> work{node.kernels().staircase[node.element()], x.data, y, x.count, kChunk, layout,
                                   {scale.data, cells, current.has_few ? &current.few : nullptr, density, start,
                                    static_cast<float>(table.count - 1)}};
    return work.run(node.api(), context);
  }
};

const char* ORT_CALL name(const ort::CustomOp*) { return "StaircaseFire"; }
size_t ORT_CALL inputs(const ort::CustomOp*) { return 3; }

}  // namespace

void describe_staircase_fire(Operator& op) {
  describe(op, name, inputs);
  use_state<State>(op);
}

}  // namespace snn
