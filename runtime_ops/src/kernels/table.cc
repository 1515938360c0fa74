// The kernels of one instruction set; SNN_ISA is the namespace the build gives it.
#include "fire.h"
#include "integrate.h"
#include "scale.h"
#include "staircase.h"

namespace snn {
namespace SNN_ISA {

extern const Kernels kernels = {
    {fire<float>, fire<Half>, fire<double>},
    {scale<float>, scale<Half>, scale<double>},
    {staircase<float>, staircase<Half>, staircase<double>},
    {integrate<float>, integrate<Half>, integrate<double>},
};

}  // namespace SNN_ISA
}  // namespace snn
