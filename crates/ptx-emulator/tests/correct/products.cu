// C = A B, row by row in memory: A is M x K, B is K x N, C is M x N.
#include "../cuda.cuh"

// Tiles of 16 x 16 in shared memory; any M, N, K.
KERNEL gemm_tiled(const float *a, const float *b, float *c, u32 m, u32 n, u32 depth) {
    __shared__ float tile_a[16][16], tile_b[16][17];
    u32 x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0.0f;
    for (u32 k = 0; k < depth; k += 16) {
        tile_a[y][x] = row < m && k + x < depth ? a[row * depth + k + x] : 0.0f;
        tile_b[y][x] = column < n && k + y < depth ? b[(k + y) * n + column] : 0.0f;
        __syncthreads();
        for (u32 i = 0; i < 16; ++i) sum = __builtin_fmaf(tile_a[y][i], tile_b[i][x], sum);
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = sum;
}

// The next tile is fetched to registers while this one is multiplied; two buffers, one barrier a tile.
// M, N and K are multiples of 32, 32 and 8; a thread has 4 x 4 sums.
KERNEL gemm_double_buffered(const float *a, const float *b, float *c, u32 m, u32 n, u32 depth) {
    __shared__ __align__(16) float tile_a[2][8][36], tile_b[2][8][32];
    u32 t = threadIdx.x, x = t % 8 * 4, y = t / 8 * 4;
    const float *from_a = a + (blockIdx.y * 32 + t / 2) * depth + t % 2 * 4;
    const float *from_b = b + t / 8 * n + blockIdx.x * 32 + t % 8 * 4;
    float sums[4][4] = {};
    float4 next_a = *(const float4 *)from_a, next_b = *(const float4 *)from_b;
    u32 stage = 0;
    for (u32 k = 0; k < depth; k += 8, stage ^= 1) {
        for (u32 i = 0; i < 4; ++i) tile_a[stage][t % 2 * 4 + i][t / 2] = next_a[i];
        *(float4 *)&tile_b[stage][t / 8][t % 8 * 4] = next_b;
        __syncthreads();
        if (k + 8 < depth) {
            next_a = *(const float4 *)(from_a + k + 8);
            next_b = *(const float4 *)(from_b + (k + 8) * n);
        }
        for (u32 i = 0; i < 8; ++i) {
            float4 column = *(const float4 *)&tile_a[stage][i][y], row = *(const float4 *)&tile_b[stage][i][x];
            for (u32 r = 0; r < 4; ++r)
                for (u32 s = 0; s < 4; ++s) sums[r][s] = __builtin_fmaf(column[r], row[s], sums[r][s]);
        }
    }
    for (u32 r = 0; r < 4; ++r) {
        float4 v = {sums[r][0], sums[r][1], sums[r][2], sums[r][3]};
        *(float4 *)(c + (blockIdx.y * 32 + y + r) * n + blockIdx.x * 32 + x) = v;
    }
}

// Three stages of cp.async, two in flight. M, N, K: multiples of 16, 16 and 16; dynamic shared memory.
KERNEL gemm_async(const float *a, const float *b, float *c, u32 m, u32 n, u32 depth) {
    extern __shared__ __align__(16) float stages[];
    float *tile_a = stages, *tile_b = stages + 3 * 256;
    u32 t = threadIdx.x, x = t % 16, y = t / 16, tiles = depth / 16;
    u32 row = blockIdx.y * 16, column = blockIdx.x * 16;
    auto fetch = [&](u32 k) {
        if (k < tiles && t < 64) {
            u32 r = t / 4, q = t % 4 * 4;
            copy_async_16(tile_a + k % 3 * 256 + r * 16 + q, a + (row + r) * depth + k * 16 + q);
            copy_async_16(tile_b + k % 3 * 256 + r * 16 + q, b + (k * 16 + r) * n + column + q);
        }
        copy_async_commit();
    };
    fetch(0);
    fetch(1);
    float sum = 0.0f;
    for (u32 k = 0; k < tiles; ++k) {
        copy_async_wait<1>();
        __syncthreads();
        fetch(k + 2);
        for (u32 i = 0; i < 16; ++i)
            sum = __builtin_fmaf(tile_a[k % 3 * 256 + y * 16 + i], tile_b[k % 3 * 256 + i * 16 + x], sum);
    }
    c[(row + y) * n + column + x] = sum;
}

// The depth is split over blockIdx.z; each part goes to its own plane, and a second kernel adds the planes.
KERNEL gemm_split_k(const float *a, const float *b, float *planes, u32 m, u32 n, u32 depth) {
    __shared__ float tile_a[16][16], tile_b[16][16];
    u32 x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    u32 part = depth / gridDim.z, start = blockIdx.z * part;
    float sum = 0.0f;
    for (u32 k = start; k < start + part; k += 16) {
        tile_a[y][x] = a[row * depth + k + x];
        tile_b[y][x] = b[(k + y) * n + column];
        __syncthreads();
        for (u32 i = 0; i < 16; ++i) sum = __builtin_fmaf(tile_a[y][i], tile_b[i][x], sum);
        __syncthreads();
    }
    planes[(blockIdx.z * m + row) * n + column] = sum;
}
KERNEL add_planes(const float *planes, float *c, u32 size, u32 count) {
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
        float sum = 0.0f;
        for (u32 k = 0; k < count; ++k) sum += planes[k * size + i];
        c[i] = sum;
    }
}

// Tensor cores: bf16 in, f32 sums. Tiles of 32 x 32 x 32, four warps of 16 x 16, two stages of cp.async, rows of
// 64 bytes whose 16-byte chunks are swizzled so that ldmatrix meets no bank conflict. M, N, K: multiples of 32.
INLINE u32 swizzled(u32 row, u32 chunk) { return row * 32 + ((chunk ^ (row >> 1 & 3)) * 8); }
KERNEL gemm_tensor(const u16 *a, const u16 *b, float *c, u32 m, u32 n, u32 depth) {
    __shared__ __align__(16) u16 tile_a[2][32 * 32], tile_b[2][32 * 32];
    u32 t = threadIdx.x, lane = t % 32, warp_row = t / 64, warp_column = t / 32 % 2, tiles = depth / 32;
    u32 r = t / 4, chunk = t % 4;
    const u16 *from_a = a + (blockIdx.y * 32 + r) * depth + chunk * 8, *from_b = b + r * n + blockIdx.x * 32 + chunk * 8;
    auto fetch = [&](u32 k) {
        if (k < tiles) {
            copy_async_16(&tile_a[k & 1][swizzled(r, chunk)], from_a + k * 32);
            copy_async_16(&tile_b[k & 1][swizzled(r, chunk)], from_b + k * 32 * n);
        }
        copy_async_commit();
    };
    float sums[2][4] = {};
    fetch(0);
    for (u32 k = 0; k < tiles; ++k) {
        fetch(k + 1);
        copy_async_wait<1>();
        __syncthreads();
        for (u32 step = 0; step < 2; ++step) {
            u32 fragment_a[4];
            load_matrix_x4(fragment_a, &tile_a[k & 1][swizzled(warp_row * 16 + lane % 16, step * 2 + lane / 16)]);
            for (u32 j = 0; j < 2; ++j) {
                u32 fragment_b[2];
                load_matrix_x2_transposed(fragment_b, &tile_b[k & 1][swizzled(step * 16 + lane % 16, warp_column * 2 + j)]);
                mma_bf16(sums[j], fragment_a, fragment_b);
            }
        }
        __syncthreads();
    }
    for (u32 j = 0; j < 2; ++j) {
        u32 row = blockIdx.y * 32 + warp_row * 16 + lane / 4, column = blockIdx.x * 32 + warp_column * 16 + j * 8 + lane % 4 * 2;
        float2 top = {sums[j][0], sums[j][1]}, bottom = {sums[j][2], sums[j][3]};
        *(float2 *)(c + row * n + column) = top;
        *(float2 *)(c + (row + 8) * n + column) = bottom;
    }
}

// y = A x, a warp a row.
KERNEL matrix_times_vector(const float *a, const float *x, float *y, u32 rows, u32 columns) {
    u32 row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float sum = 0.0f;
    for (u32 i = lane; i < columns; i += 32) sum = __builtin_fmaf(a[row * columns + i], x[i], sum);
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(FULL, sum, by);
    if (lane == 0) y[row] = sum;
}
