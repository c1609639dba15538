// target sm_80
//
// Convolution on bf16 values with tensor cores: rung 5 of the ladder in conv2d.cu and conv2d_tf32.cu.
//
// rung  kernel                         idea                                          bounded by
// 5     conv2d_mma_bf16                mma.sync 16×8×16 on fragments from ldmatrix,  tensor pipe; shared memory close by:
//                                      four stages of cp.async: 64 KB                6 ldmatrix feed 16 mma
//       conv2d_mma_bf16_f32            the same, add and target in f32               likewise
//
// Products are exact in f32, sums in f32: what is lost is the operands' rounding to 7 bits, 1e-3 … 1e-2 in the norm.
#include "conv2d_pipeline.cuh"

constexpr int STAGES_BF16 = 4;

// Forward and backward, grid as rung 2, block 256, dynamic shared memory 64 KB.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
conv2d_mma_bf16(const bf16 *__restrict__ source, const bf16 *__restrict__ weight, OUTLET_PARAMETERS(bf16), CONV2D_PARAMETERS,
                int backward) {
    tensor_cores<bf16, bf16, STAGES_BF16>(source, weight, OUTLET(bf16), CONV2D_SHAPE, backward);
}

// add and target in f32. Grid as above, block 256, dynamic shared memory 64 KB.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
conv2d_mma_bf16_f32(const bf16 *__restrict__ source, const bf16 *__restrict__ weight, OUTLET_PARAMETERS(float), CONV2D_PARAMETERS,
                    int backward) {
    tensor_cores<bf16, float, STAGES_BF16>(source, weight, OUTLET(float), CONV2D_SHAPE, backward);
}
