// Reads of what nobody wrote.
#include "../cuda.cuh"

// A buffer that the host allocated and forgot to fill.
// launch: grid=1 block=32 args=f32[32] f32[32]
// repaired: grid=1 block=32 args=f32[32]=iota f32[32]
// expect: uninitialised-read global block=0 warp=0 lane=0
KERNEL global_input_never_filled(const float *in, float *out) {
    out[threadIdx.x] = in[threadIdx.x] * 2.0f; // BUG
}

// Adding to an output that begins as whatever was there.
// launch: grid=2 block=32 args=f32[64]=iota f32[64]
// expect: uninitialised-read global
KERNEL global_accumulates_into_nothing(const float *in, float *out) {
    u32 i = blockIdx.x * 32 + threadIdx.x;
    ONLY_REPAIRED(out[i] = 0.0f;)
    for (int k = 0; k < 3; ++k) {
        __syncthreads();
        out[i] += in[i]; // BUG
    }
}

// A scratch buffer of which the upper half stays empty.
// launch: grid=1 block=32 args=u32[64] u32[32] u32:64
// expect: uninitialised-read global block=0 warp=0 lane=0
KERNEL global_half_filled_scratch(u32 *scratch, u32 *out, u32 n) {
    u32 t = threadIdx.x;
    for (u32 i = t; i < BUG_OR_REPAIR(n / 2, n); i += 32) scratch[i] = i;
    __syncwarp();
    out[t] = scratch[t] + scratch[t + 32]; // BUG
}

// An atomic counter that nobody set to zero.
// launch: grid=1 block=32 args=u32[1] u32[32]
// repaired: grid=1 block=32 args=u32[1]=zeros u32[32]
// expect: uninitialised-read global block=0 warp=0
KERNEL global_counter_not_zeroed(u32 *counter, u32 *out) {
    out[threadIdx.x] = atomicAdd(counter, 1u); // BUG
}

// A copy that does not pass the registers: what it copies was never written.
// launch: grid=1 block=8 args=f32[32] f32[8]
// repaired: grid=1 block=8 args=f32[32]=iota f32[8]
// expect: uninitialised-read global block=0 warp=0
// may: uninitialised-read shared
KERNEL global_async_copy_of_nothing(const float *in, float *out) {
    __shared__ __align__(16) float tile[32];
    u32 t = threadIdx.x;
    copy_async_16(tile + t * 4, in + t * 4); // BUG
    copy_async_wait_all();
    out[t] = tile[t * 4]; // BUG
}

// A stencil tile whose left halo is not loaded.
// launch: grid=1 block=64 args=f32[64]=iota f32[64]
// expect: uninitialised-read shared block=0 warp=0 lane=0
KERNEL shared_halo_not_loaded(const float *in, float *out) {
    __shared__ float tile[66];
    u32 t = threadIdx.x;
    tile[t + 1] = in[t];
    ONLY_REPAIRED(if (t == 0) tile[0] = 0.0f;)
    if (t == 63) tile[65] = 0.0f;
    __syncthreads();
    out[t] = tile[t] + tile[t + 1] + tile[t + 2]; // BUG
}

// Bins counted up from nothing.
// launch: grid=1 block=64 args=u32[64]=iota u32[16]
// expect: uninitialised-read shared block=0
KERNEL shared_bins_not_zeroed(const u32 *in, u32 *out) {
    __shared__ u32 bins[16];
    u32 t = threadIdx.x;
    ONLY_REPAIRED(if (t < 16) bins[t] = 0;)
    __syncthreads();
    atomicAdd(bins + (in[t] & 15), 1u); // BUG
    __syncthreads();
    if (t < 16) out[t] = bins[t];
}

// The last tile is short, and its rest is not filled with zeros.
// launch: grid=1 block=32 args=f32[40]=iota f32[32] u32:40
// expect: uninitialised-read shared block=0 warp=0 lane=0
KERNEL shared_short_tile_not_padded(const float *in, float *out, u32 n) {
    __shared__ float tile[2][32];
    u32 t = threadIdx.x;
    for (u32 k = 0; k < 2; ++k) {
        u32 i = k * 32 + t;
        if (i < n) tile[k][t] = in[i];
        ONLY_REPAIRED(else tile[k][t] = 0.0f;)
    }
    __syncwarp();
    float sum = 0.0f;
    for (u32 i = 0; i < 32; ++i) sum += tile[0][i] * tile[1][i]; // BUG
    out[t] = sum;
}

// Partial sums of 32 warps are added, where 2 warps wrote theirs.
// launch: grid=1 block=64 args=f32[64]=iota f32[1]
// expect: uninitialised-read shared block=0 warp=0 lane=2
KERNEL shared_sums_of_absent_warps(const float *in, float *out) {
    __shared__ float sums[32];
    u32 t = threadIdx.x, warp = t / 32, lane = t % 32;
    float v = in[t];
    for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(FULL, v, by);
    if (lane == 0) sums[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = BUG_OR_REPAIR(true, lane < blockDim.x / 32) ? sums[lane] : 0.0f; // BUG
        for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(FULL, v, by);
        if (lane == 0) out[0] = v;
    }
}

// The padding column against bank conflicts is read as data.
// launch: grid=1 block=32 args=f32[1024]=iota f32[1024] u32:32
// expect: uninitialised-read shared block=0 warp=0
KERNEL shared_padding_column_read(const float *in, float *out, u32 n) {
    __shared__ float tile[32 * 33];
    u32 t = threadIdx.x;
    for (u32 y = 0; y < n; ++y) tile[y * 33 + t] = in[y * n + t];
    __syncwarp();
    for (u32 y = 0; y < n; ++y) out[y * n + t] = tile[t * BUG_OR_REPAIR(32, 33) + y]; // BUG
}

// Dynamic shared memory holds what the last kernel left there.
// launch: grid=1 block=32 shared=256 args=u32[32]=iota u32[32]
// expect: uninitialised-read shared block=0 warp=0
KERNEL shared_dynamic_read_first(const u32 *in, u32 *out) {
    extern __shared__ u32 dynamic_words[];
    u32 t = threadIdx.x;
    dynamic_words[t] = in[t];
    ONLY_REPAIRED(dynamic_words[t + 32] = 0;)
    __syncwarp();
    out[t] = dynamic_words[t] + dynamic_words[63 - t]; // BUG
}

// ldmatrix of a tile whose last rows were not stored.
// launch: grid=1 block=32 args=u32[128]=iota u32[32] u32:128
// expect: uninitialised-read shared block=0 warp=0
KERNEL shared_matrix_with_empty_rows(const u32 *in, u32 *out, u32 n) {
    __shared__ __align__(16) u32 tile[128];
    u32 t = threadIdx.x;
    for (u32 i = t; i < BUG_OR_REPAIR(n - 32, n); i += 32) tile[i] = in[i];
    __syncwarp();
    u32 r[4];
    load_matrix_x4(r, tile + t * 4); // BUG
    out[t] = r[0] + r[1] + r[2] + r[3];
}

// A thread's own array, filled for even indices only.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:2
// expect: uninitialised-read local block=0 warp=0 lane=1
KERNEL local_array_half_filled(const u32 *in, u32 *out, u32 step) {
    volatile u32 table[8];
    for (u32 i = 0; i < 8; i += BUG_OR_REPAIR(step, 1)) table[i] = i;
    out[threadIdx.x] = table[in[threadIdx.x] & 7]; // BUG
}

// A register that is read before anything wrote it. As PTX: a compiler would make a constant of it.
// launch: grid=1 block=32 args=f32[32]=iota f32[32]
// expect: uninitialised-read register block=0 warp=0
KERNEL register_never_written(const float *in, float *out) {
    float v = in[threadIdx.x], sum;
    asm volatile("{ .reg .f32 t;" BUG_OR_REPAIR("", " mov.f32 t, 0f00000000;") " add.f32 %0, t, %1; }" : "=f"(sum) : "f"(v)); // BUG
    out[threadIdx.x] = sum;
}

// A register that one side of a branch writes.
// launch: grid=1 block=32 args=u32[32]=iota u32[32]
// expect: uninitialised-read register block=0 warp=0 lane=16
KERNEL register_written_by_half_the_lanes(const u32 *in, u32 *out) {
    u32 v = in[threadIdx.x], sum;
    asm volatile("{ .reg .pred p; .reg .u32 t; setp.lt.u32 p, %1, 16; " BUG_OR_REPAIR("@p", "") " mov.u32 t, 7; add.u32 %0, t, %1; }" : "=r"(sum) : "r"(v)); // BUG
    out[threadIdx.x] = sum;
}

// A predicate that was never set decides.
// launch: grid=1 block=32 args=u32[32]=iota u32[32]
// expect: uninitialised-read register block=0 warp=0
KERNEL register_predicate_never_set(const u32 *in, u32 *out) {
    u32 v = in[threadIdx.x], picked;
    asm volatile("{ .reg .pred p; " BUG_OR_REPAIR("", "setp.lt.u32 p, %1, 16;") " selp.u32 %0, %1, 0, p; }" : "=r"(picked) : "r"(v)); // BUG
    out[threadIdx.x] = picked;
}

// An accumulator of mma.sync that starts as whatever the register holds.
// launch: grid=1 block=32 args=u32[32]=zeros f32[32]
// expect: uninitialised-read register block=0 warp=0
KERNEL register_accumulator_not_zeroed(const u32 *in, float *out) {
    u32 a = in[threadIdx.x];
    float c;
    asm volatile("{ .reg .f32 c0, c1, c2, c3, s0;" BUG_OR_REPAIR("", " mov.f32 s0, 0f00000000;") // BUG
                 " mov.f32 c1, 0f00000000; mov.f32 c2, c1; mov.f32 c3, c1;"
                 " mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {c0, c1, c2, c3}, {%1, %1, %1, %1}, {%1, %1}, {s0, c1, c2, c3};" // BUG
                 " mov.f32 %0, c0; }" // BUG
                 : "=f"(c) // BUG
                 : "r"(a)); // BUG
    out[threadIdx.x] = c;
}
