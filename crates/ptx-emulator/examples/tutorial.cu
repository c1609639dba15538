// A transposition in three steps: the worked example of docs/kernels-without-a-gpu.md.
// in is height x width, out is width x height; blocks of 32 x 8 threads handle tiles of 32 x 32.
#include "../tests/cuda.cuh"

// Step 1. Reads along rows, writes along columns: the 32 lanes of a warp write to 32 different sectors.
KERNEL transpose_naive(const float *in, float *out, u32 width, u32 height) {
    u32 x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (u32 i = 0; i < 32; i += 8)
        if (x < width && y + i < height)
            out[x * height + y + i] = in[(y + i) * width + x];
}

// Step 2. Through shared memory, so that reads and writes both go along rows. But a column of the tile lies in one bank.
KERNEL transpose_tiled(const float *in, float *out, u32 width, u32 height) {
    __shared__ float tile[32][32];
    u32 x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (u32 i = 0; i < 32; i += 8)
        if (x < width && y + i < height)
            tile[threadIdx.y + i][threadIdx.x] = in[(y + i) * width + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (u32 i = 0; i < 32; i += 8)
        if (x < height && y + i < width)
            out[(y + i) * height + x] = tile[threadIdx.x][threadIdx.y + i];
}

// Step 3. Rows of 33 words: a column goes through all 32 banks.
KERNEL transpose_padded(const float *in, float *out, u32 width, u32 height) {
    __shared__ float tile[32][33];
    u32 x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (u32 i = 0; i < 32; i += 8)
        if (x < width && y + i < height)
            tile[threadIdx.y + i][threadIdx.x] = in[(y + i) * width + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (u32 i = 0; i < 32; i += 8)
        if (x < height && y + i < width)
            out[(y + i) * height + x] = tile[threadIdx.x][threadIdx.y + i];
}

// A sum with a mistake in it, for the report of a race: the barrier belongs inside the loop.
KERNEL sum_with_a_race(const float *in, float *out, u32 n) {
    __shared__ float sums[256];
    u32 t = threadIdx.x, i = blockIdx.x * 256 + t;
    sums[t] = i < n ? in[i] : 0.0f;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2)
        if (t < half)
            sums[t] += sums[t + half];
    __syncthreads();
    if (t == 0) out[blockIdx.x] = sums[0];
}
