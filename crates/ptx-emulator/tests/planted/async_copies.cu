// cp.async: what was copied is there only after the right wait.
#include "../cuda.cuh"

// No wait at all; the barrier does not wait for copies.
// launch: grid=1 block=32 args=f32[128]=iota f32[32]
// expect: missing-async-wait shared block=0 warp=0
KERNEL no_wait(const float *in, float *out) {
    __shared__ __align__(16) float tile[128];
    u32 t = threadIdx.x;
    copy_async_16(tile + t * 4, in + t * 4);
    copy_async_commit();
    ONLY_REPAIRED(copy_async_wait<0>();)
    __syncthreads();
    out[t] = tile[t * 4]; // BUG
}

// The group was never committed, so waiting for all committed groups does not wait for it.
// launch: grid=1 block=32 args=f32[128]=iota f32[32]
// expect: missing-async-wait shared block=0 warp=0
KERNEL no_commit(const float *in, float *out) {
    __shared__ __align__(16) float tile[128];
    u32 t = threadIdx.x;
    copy_async_16(tile + t * 4, in + t * 4);
    ONLY_REPAIRED(copy_async_commit();)
    copy_async_wait<0>();
    __syncthreads();
    out[t] = tile[t * 4]; // BUG
}

// Committed first, copied then: the group is empty.
// launch: grid=1 block=32 args=f32[128]=iota f32[32]
// expect: missing-async-wait shared block=0 warp=0
KERNEL commit_before_the_copy(const float *in, float *out) {
    __shared__ __align__(16) float tile[128];
    u32 t = threadIdx.x;
    ONLY_BUG(copy_async_commit();)
    copy_async_16(tile + t * 4, in + t * 4);
    ONLY_REPAIRED(copy_async_commit();)
    copy_async_wait<0>();
    __syncthreads();
    out[t] = tile[t * 4]; // BUG
}

// Two stages: the wait lets the newest group be pending, and the newest is the one that is read.
// launch: grid=1 block=32 args=f32[256]=iota f32[32] u32:8
// expect: missing-async-wait shared block=0 warp=0
KERNEL one_group_too_many_pending(const float *in, float *out, u32 tiles) {
    __shared__ float buffer[2][32];
    u32 t = threadIdx.x;
    float sum = 0.0f;
    copy_async_4(&buffer[0][t], in + t);
    copy_async_commit();
    for (u32 k = 0; k < tiles; ++k) {
        if (k + 1 < tiles) copy_async_4(&buffer[(k + 1) & 1][t], in + (k + 1) * 32 + t); // BUG
        copy_async_commit();
        copy_async_wait<BUG_OR_REPAIR(2, 1)>();
        __syncthreads();
        sum += buffer[k & 1][31 - t]; // BUG
        __syncthreads();
    }
    out[t] = sum;
}

// The loop commits only when it copies, so in its last turn "all but one" leaves the last group out.
// launch: grid=1 block=32 args=f32[256]=iota f32[32] u32:8
// expect: missing-async-wait shared block=0 warp=0
KERNEL last_turn_waits_for_too_few(const float *in, float *out, u32 tiles) {
    __shared__ float buffer[2][32];
    u32 t = threadIdx.x;
    float sum = 0.0f;
    copy_async_4(&buffer[0][t], in + t);
    copy_async_commit();
    for (u32 k = 0; k < tiles; ++k) {
        if (k + 1 < tiles) {
            copy_async_4(&buffer[(k + 1) & 1][t], in + (k + 1) * 32 + t);
            ONLY_BUG(copy_async_commit();)
        }
        ONLY_REPAIRED(copy_async_commit();)
        copy_async_wait<1>();
        __syncthreads();
        sum += buffer[k & 1][31 - t]; // BUG
        __syncthreads();
    }
    out[t] = sum;
}

// Three stages in flight, and a wait meant for four.
// launch: grid=1 block=32 args=f32[320]=iota f32[32] u32:10
// expect: missing-async-wait shared block=0 warp=0
KERNEL three_stages_wait_for_four(const float *in, float *out, u32 tiles) {
    __shared__ float buffer[3][32];
    u32 t = threadIdx.x;
    float sum = 0.0f;
    for (u32 k = 0; k < 2; ++k) {
        copy_async_4(&buffer[k][t], in + k * 32 + t);
        copy_async_commit();
    }
    for (u32 k = 0; k < tiles; ++k) {
        copy_async_wait<BUG_OR_REPAIR(2, 1)>();
        __syncthreads();
        sum += buffer[k % 3][31 - t]; // BUG
        if (k + 2 < tiles) copy_async_4(&buffer[(k + 2) % 3][t], in + (k + 2) * 32 + t);
        copy_async_commit();
    }
    out[t] = sum;
}

// The wait comes after the read.
// launch: grid=1 block=32 args=f32[32]=iota f32[32]
// expect: missing-async-wait shared block=0 warp=0
KERNEL wait_after_the_read(const float *in, float *out) {
    __shared__ float tile[32];
    u32 t = threadIdx.x;
    copy_async_4(tile + t, in + t);
    ONLY_REPAIRED(copy_async_wait_all();)
    float v = tile[t]; // BUG
    ONLY_BUG(copy_async_wait_all();)
    out[t] = v;
}

// Old data is in the tile, so nothing looks uninitialised: the read is of the last round's values.
// launch: grid=1 block=32 args=f32[64]=iota f32[32]
// expect: missing-async-wait shared block=0 warp=0
KERNEL stale_data_without_a_wait(const float *in, float *out) {
    __shared__ float tile[32];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    __syncwarp();
    float sum = tile[t];
    __syncwarp();
    copy_async_4(tile + t, in + 32 + t);
    copy_async_commit();
    ONLY_REPAIRED(copy_async_wait<0>();)
    __syncwarp();
    out[t] = sum + tile[t]; // BUG
}

// ldmatrix reads the tile before the copy is done.
// launch: grid=1 block=32 args=u32[128]=iota u32[32]
// expect: missing-async-wait shared block=0 warp=0
KERNEL matrix_loaded_without_a_wait(const u32 *in, u32 *out) {
    __shared__ __align__(16) u32 tile[128];
    u32 t = threadIdx.x;
    copy_async_16(tile + t * 4, in + t * 4);
    copy_async_commit();
    ONLY_REPAIRED(copy_async_wait<0>();)
    __syncwarp();
    u32 r[4];
    load_matrix_x4(r, tile + t * 4); // BUG
    out[t] = r[0] + r[1] + r[2] + r[3];
}

// A store into a tile that a copy is still going to fill: the copy wins, or the store does.
// launch: grid=1 block=32 args=f32[32]=iota f32[32]
// expect: missing-async-wait shared block=0 warp=0
KERNEL store_into_a_pending_copy(const float *in, float *out) {
    __shared__ float tile[32];
    u32 t = threadIdx.x;
    copy_async_4(tile + t, in + t);
    copy_async_commit();
    ONLY_REPAIRED(copy_async_wait<0>();)
    if (t < 4) tile[t] = 0.0f; // BUG
    ONLY_BUG(copy_async_wait<0>();)
    __syncwarp();
    out[t] = tile[t];
}
