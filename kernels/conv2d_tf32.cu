// target sm_80
//
// Convolution: copies in the background, and tensor cores on f32 values. The equation, the plain rungs and what bounds
// them are in conv2d.cu, the product in conv2d.cuh, the pipeline in conv2d_pipeline.cuh.
//
// rung  kernel                      idea                                            bounded by
// 3     conv2d_async_f32            rung 2 with the next slice under way while      issue of multiply-adds
//                                   this one is multiplied; one barrier a slice
// 4     conv2d_mma_tf32             mma.sync 16×8×8 on fragments from ldmatrix,     tensor pipe; each step of two mma
//                                   three stages: 48 KB, two blocks an SM           also rounds three registers to tf32
//
// Rung 3 adds in the order of rungs 0 to 2 and gives their bits. Rung 4 rounds both operands to tf32 (10 bits, nearest)
// and accumulates in f32: relative error near 3e-4 in the norm, whatever the depth.
#include "conv2d_pipeline.cuh"

constexpr int STAGES_F32 = 2, STAGES_TF32 = 3;

// ---- rung 3 ---------------------------------------------------------------------------------------------------------

// Forward and backward, grid as rung 2, block 256.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
conv2d_async_f32(const float *__restrict__ source, const float *__restrict__ weight, OUTLET_PARAMETERS(float), CONV2D_PARAMETERS,
                 int backward) {
    alignas(16) __shared__ char stages[STAGES_F32 * STAGE];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // 8 rows, 8 apart; 4 columns and the 4 that are 16 on.
    const int row = warp / 4 * 64 + lane % 8, column = warp % 4 * 32 + lane / 8 * 4;
    float acc[8][8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) acc[i][j] = 0.0f;
    auto multiply = [&](const char *stage) {
#pragma unroll 1
        for (int chunk = 0; chunk < LINE / 16; ++chunk) {
            float4 right[8];
#pragma unroll
            for (int j = 0; j < 8; ++j)
                right[j] = *(const float4 *)(stage + LINES * LINE + chunk_offset<2>(column + j % 4 + j / 4 * 16, chunk));
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float4 left = *(const float4 *)(stage + chunk_offset<1>(row + 8 * i, chunk));
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    acc[i][j] = fmaf(left.w, right[j].w, fmaf(left.z, right[j].z, fmaf(left.y, right[j].y, fmaf(left.x, right[j].x, acc[i][j]))));
            }
        }
    };
    pipeline<float, STAGES_F32, 2>(source, weight, OUTLET(float), CONV2D_SHAPE, backward, stages, multiply, [&](float *results) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int half = 0; half < 8; half += 4)
                write_four(results + result_index(lane % 8 + 8 * i, column + 4 * half),
                           make_float4(acc[i][half], acc[i][half + 1], acc[i][half + 2], acc[i][half + 3]));
    });
}

// ---- rung 4 ---------------------------------------------------------------------------------------------------------

// Forward and backward, grid as rung 2, block 256, dynamic shared memory 48 KB.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
conv2d_mma_tf32(const float *__restrict__ source, const float *__restrict__ weight, OUTLET_PARAMETERS(float), CONV2D_PARAMETERS,
                int backward) {
    tensor_cores<float, float, STAGES_TF32>(source, weight, OUTLET(float), CONV2D_SHAPE, backward);
}
