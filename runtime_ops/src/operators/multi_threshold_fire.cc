
#include "node.h"

namespace snn {
namespace {

struct State {
  Node node;
  NeuronAttributes attributes;

  State(const Operator& op, const ort::KernelInfo* info) : node(op, info) {}

  ort::Status* prepare(const ort::KernelInfo* info) {
    if (ort::Status* status = attributes.read(node, info)) return status;
    return attributes.check_constant_theta(node, info);
  }

  ort::Status* compute(ort::KernelContext* context) const {
    Tensor x, theta;
    if (ort::Status* status = attributes.read_inputs(node, context, x, theta)) return status;
    Layout layout;
    if (ort::Status* status = node.lay_out("theta", theta, attributes.axis, x.shape, layout)) return status;
    void* y = nullptr;
    if (ort::Status* status = node.make_output(context, x.shape, y)) return status;
    Work<FireParameters> work{node.kernels().fire[node.element()], x.data, y, x.count, kChunk, layout,
                              attributes.parameters(theta.data)};
    return work.run(node.api(), context);
  }
};

const char* ORT_CALL name(const ort::CustomOp*) { return "MultiThresholdFire"; }
size_t ORT_CALL inputs(const ort::CustomOp*) { return 2; }

}  // namespace

void describe_multi_threshold_fire(Operator& op) {
  describe(op, name, inputs);
  use_state<State>(op);
}

}  // namespace snn
