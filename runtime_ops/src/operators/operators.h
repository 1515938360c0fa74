// The operators as ONNX Runtime custom operators.
#pragma once

#include "../kernels/kernels.h"
#include "../ort_abi.h"

namespace snn {

// The descriptor the runtime calls, one for each operator and element type.
struct Operator : ort::CustomOp {
  const ort::Api* api;  // what the callbacks call back
  const Kernels* kernels;
  Element element;
};

void describe_multi_threshold_fire(Operator& op);
void describe_scale_fire(Operator& op);
void describe_dual_scale_fire(Operator& op);
void describe_staircase_fire(Operator& op);
void describe_integrate_fire(Operator& op);

constexpr void (*kDescribe[])(Operator&) = {describe_multi_threshold_fire, describe_scale_fire, describe_dual_scale_fire,
                                            describe_staircase_fire, describe_integrate_fire};

// Of the domain of tools: it is in no compiled model, and takes float32 only.
void describe_observe(Operator& op);

}  // namespace snn
