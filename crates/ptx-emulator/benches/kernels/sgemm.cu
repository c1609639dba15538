// C = A·B in f32, row-major, sizes multiples of 128, 128 and 8: 128 × 128 tiles of C, 8 × 8 values a thread, 256 threads.
// clang++ -x cuda --cuda-device-only --cuda-gpu-arch=sm_80 -nocudainc -nocudalib --cuda-feature=+ptx70 -O3 -S sgemm.cu
#include <__clang_cuda_builtin_vars.h>

typedef float Four __attribute__((ext_vector_type(4)));

extern "C" __attribute__((global)) void sgemm(const float *a, const float *b, float *c, int n, int k) {
    __attribute__((shared, aligned(16))) static float as[8][128];
    __attribute__((shared, aligned(16))) static float bs[8][128];
    const int t = threadIdx.x, row = blockIdx.y * 128, column = blockIdx.x * 128;
    const int ty = t / 16 * 8, tx = t % 16 * 8;
    float sum[8][8] = {};
    for (int k0 = 0; k0 < k; k0 += 8) {
        const Four av = *reinterpret_cast<const Four *>(a + (row + t / 2) * k + k0 + t % 2 * 4);
        as[t % 2 * 4 + 0][t / 2] = av.x;
        as[t % 2 * 4 + 1][t / 2] = av.y;
        as[t % 2 * 4 + 2][t / 2] = av.z;
        as[t % 2 * 4 + 3][t / 2] = av.w;
        *reinterpret_cast<Four *>(&bs[t / 32][t % 32 * 4]) =
            *reinterpret_cast<const Four *>(b + (k0 + t / 32) * n + column + t % 32 * 4);
        __nvvm_bar_sync(0);
#pragma unroll
        for (int kk = 0; kk < 8; kk++) {
            const Four x0 = *reinterpret_cast<const Four *>(&as[kk][ty]), x1 = *reinterpret_cast<const Four *>(&as[kk][ty + 4]);
            const Four y0 = *reinterpret_cast<const Four *>(&bs[kk][tx]), y1 = *reinterpret_cast<const Four *>(&bs[kk][tx + 4]);
            const float x[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
            const float y[8] = {y0.x, y0.y, y0.z, y0.w, y1.x, y1.y, y1.z, y1.w};
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) sum[i][j] += x[i] * y[j];
        }
        __nvvm_bar_sync(0);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j += 4)
            *reinterpret_cast<Four *>(c + (row + ty + i) * n + column + tx + j) =
                Four{sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]};
}
