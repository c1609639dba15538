// C = A·Bᵀ with bf16 operands (A m × k, B n × k, both row-major) and f32 C: 64 × 64 tiles of C, k in steps of 32, 4 warps of
// 32 × 32, operands through cp.async in two stages, ldmatrix, chunks of 16 bytes exchanged by (row / 2) against bank conflicts.
// Sizes multiples of 64, 64 and 32. Compiled as sgemm.cu.
#include <__clang_cuda_builtin_vars.h>

#define DEVICE __attribute__((device)) inline __attribute__((always_inline))

DEVICE void copy16(unsigned to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

// Byte offset of a 16-byte chunk in a tile of 64 rows of 64 bytes.
DEVICE unsigned at(int row, int chunk) { return row * 64 + ((chunk ^ (row / 2 & 3)) * 16); }

extern "C" __attribute__((global)) void mma_gemm(const unsigned short *a, const unsigned short *b, float *c, int n, int k) {
    __attribute__((shared, aligned(128))) static unsigned char tiles[2][2][64 * 64];
    const unsigned base = (unsigned)(unsigned long long)(__attribute__((address_space(3))) void *)&tiles[0][0][0];
    const int t = threadIdx.x, lane = t % 32, warp = t / 32;
    const int row = blockIdx.y * 64, column = blockIdx.x * 64, wm = warp / 2 * 32, wn = warp % 2 * 32;
    float sum[2][4][4] = {};
    auto load = [&](int stage, int k0) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = t / 4 + 32 * i, chunk = t % 4;
            copy16(base + stage * 8192 + at(r, chunk), a + (row + r) * k + k0 + chunk * 8);
            copy16(base + stage * 8192 + 4096 + at(r, chunk), b + (column + r) * k + k0 + chunk * 8);
        }
        asm volatile("cp.async.commit_group;");
    };
    load(0, 0);
    for (int k0 = 0, stage = 0; k0 < k; k0 += 32, stage ^= 1) {
        if (k0 + 32 < k) {
            load(stage ^ 1, k0 + 32);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __nvvm_bar_sync(0);
#pragma unroll
        for (int kk = 0; kk < 2; kk++) {
            unsigned x[2][4], y[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const unsigned pa = base + stage * 8192 + at(wm + 16 * i + lane % 16, 2 * kk + lane / 16);
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(x[i][0]), "=r"(x[i][1]), "=r"(x[i][2]), "=r"(x[i][3]) : "r"(pa));
                const unsigned pb =
                    base + stage * 8192 + 4096 + at(wn + 16 * i + lane % 8 + lane / 16 * 8, 2 * kk + lane / 8 % 2);
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(y[i][0]), "=r"(y[i][1]), "=r"(y[i][2]), "=r"(y[i][3]) : "r"(pb));
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                                 : "+f"(sum[i][j][0]), "+f"(sum[i][j][1]), "+f"(sum[i][j][2]), "+f"(sum[i][j][3])
                                 : "r"(x[i][0]), "r"(x[i][1]), "r"(x[i][2]), "r"(x[i][3]), "r"(y[j / 2][j % 2 * 2]), "r"(y[j / 2][j % 2 * 2 + 1]));
        }
        __nvvm_bar_sync(0);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int h = 0; h < 4; h++)
                c[(row + wm + 16 * i + lane / 4 + h / 2 * 8) * n + column + wn + 8 * j + lane % 4 * 2 + h % 2] = sum[i][j][h];
}
