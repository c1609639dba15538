// Stencils and transposes.
#include "../cuda.cuh"

// Three points of a line, a halo on both sides.
KERNEL stencil_line(const float *in, float *out, u32 n) {
    __shared__ float tile[66];
    u32 t = threadIdx.x, i = blockIdx.x * 64 + t;
    tile[t + 1] = i < n ? in[i] : 0.0f;
    if (t == 0) tile[0] = i > 0 ? in[i - 1] : 0.0f;
    if (t == 63) tile[65] = i + 1 < n ? in[i + 1] : 0.0f;
    __syncthreads();
    if (i < n) out[i] = 0.25f * tile[t] + 0.5f * tile[t + 1] + 0.25f * tile[t + 2];
}

// Five points of a plane; the tile with its halo is loaded by all threads in a loop.
KERNEL stencil_plane(const float *in, float *out, u32 width, u32 height) {
    __shared__ float tile[10][34];
    u32 x = threadIdx.x, y = threadIdx.y, t = y * 32 + x;
    int left = blockIdx.x * 32, top = blockIdx.y * 8;
    for (u32 i = t; i < 340; i += 256) {
        int u = left + (int)(i % 34) - 1, v = top + (int)(i / 34) - 1;
        tile[i / 34][i % 34] = u >= 0 && v >= 0 && u < (int)width && v < (int)height ? in[v * width + u] : 0.0f;
    }
    __syncthreads();
    if (left + x < width && top + y < height)
        out[(top + y) * width + left + x] =
            tile[y + 1][x + 1] * 4.0f - (tile[y][x + 1] + tile[y + 2][x + 1]) - (tile[y + 1][x] + tile[y + 1][x + 2]);
}

// Many sweeps inside one block, between two buffers.
KERNEL stencil_sweeps(const float *in, float *out, u32 sweeps) {
    __shared__ float line[2][64];
    u32 t = threadIdx.x;
    line[0][t] = in[t];
    __syncthreads();
    for (u32 k = 0; k < sweeps; ++k) {
        const float *from = line[k & 1];
        line[(k + 1) & 1][t] = 0.5f * from[t] + 0.25f * (from[(t + 63) & 63] + from[(t + 1) & 63]);
        __syncthreads();
    }
    out[t] = line[sweeps & 1][t];
}

// Through a padded tile; any size.
KERNEL transpose_padded(const float *in, float *out, u32 width, u32 height) {
    __shared__ float tile[32][33];
    u32 x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (u32 i = 0; i < 32; i += 8)
        if (x < width && y + i < height) tile[threadIdx.y + i][threadIdx.x] = in[(y + i) * width + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (u32 i = 0; i < 32; i += 8)
        if (x < height && y + i < width) out[(y + i) * height + x] = tile[threadIdx.x][threadIdx.y + i];
}

// Bytes: neighbours in one word of shared memory belong to different warps.
KERNEL bytes_of_different_warps(const u8 *in, u8 *out) {
    __shared__ u8 bytes[128];
    u32 t = threadIdx.x, warp = t / 32, lane = t % 32;
    bytes[lane * 4 + warp] = in[t];
    __syncthreads();
    out[t] = bytes[t];
}

// Neighbouring bytes of global memory belong to different blocks.
KERNEL bytes_of_different_blocks(const u8 *in, u8 *out) {
    u32 i = threadIdx.x * gridDim.x + blockIdx.x;
    out[i] = in[i] + 1;
}
