
#include "node.h"

namespace snn {
namespace {

// Few enough for a product with them to be checked in int64_t.
constexpr int64_t kMaxTimesteps = int64_t{1} << 31;

struct State {
  Node node;
  NeuronAttributes attributes;
  int64_t timesteps = 1;

  State(const Operator& op, const ort::KernelInfo* info) : node(op, info) {}

  ort::Status* prepare(const ort::KernelInfo* info) {
    if (ort::Status* status = attributes.read(node, info)) return status;
    if (ort::Status* status = node.read_int_in(info, "timesteps", timesteps, 1, kMaxTimesteps)) return status;
    return attributes.check_constant_theta(node, info);
  }

  // The shape of one timestep: axis 0 of X is timesteps * B.
  ort::Status* step_shape(const Shape& x, Shape& step) const {
    step = x;
    if (timesteps == 1) return nullptr;
    if (x.rank == 0) return node.refuse("X is a scalar: it has no axis 0 for %lld timesteps", static_cast<long long>(timesteps));
    if (x.dims[0] % timesteps != 0) {
      return node.refuse("axis 0 of X has %lld entries, not a multiple of timesteps = %lld", static_cast<long long>(x.dims[0]),
                         static_cast<long long>(timesteps));
    }
    step.dims[0] = x.dims[0] / timesteps;
    return nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    Tensor x, theta;
    if (ort::Status* status = attributes.read_inputs(node, context, x, theta)) return status;
    Shape step;
    if (ort::Status* status = step_shape(x.shape, step)) return status;
    Layout layout;
    if (ort::Status* status = node.lay_out("theta", theta, attributes.axis, step, layout)) return status;
    void* y = nullptr;
    if (ort::Status* status = node.make_output(context, x.shape, y)) return status;

    const size_t steps = static_cast<size_t>(timesteps);
    const size_t count = x.count / steps;
    // A task has all timesteps of its elements, and enough elements for long reads.
    const size_t shared = kChunk / steps;
    const size_t chunk = shared < kShortestChunk ? kShortestChunk : shared;
    Work<IntegrateParameters> work{node.kernels().integrate[node.element()], x.data, y, count, chunk, layout,
                                   {attributes.parameters(theta.data), steps, count}};
    return work.run(node.api(), context);
  }

  static constexpr size_t kShortestChunk = 2048;  // a tile of the kernel
};

const char* ORT_CALL name(const ort::CustomOp*) { return "IntegrateFire"; }
size_t ORT_CALL inputs(const ort::CustomOp*) { return 2; }

}  // namespace

void describe_integrate_fire(Operator& op) {
  describe(op, name, inputs);
  use_state<State>(op);
}

}  // namespace snn
