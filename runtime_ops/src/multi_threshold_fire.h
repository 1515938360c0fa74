// MultiThresholdFire as an ONNX Runtime custom operator.
#pragma once

#include "ort_abi.h"

namespace snn {

// The descriptor the runtime calls; `api` is what its callbacks call back.
struct MultiThresholdFireOp : ort::CustomOp {
  const ort::Api* api;
};

MultiThresholdFireOp make_multi_threshold_fire(const ort::Api& api);

}  // namespace snn
