// Accesses outside the memory that was allocated or declared.
#include "../cuda.cuh"

// The comparison that runs one too far.
// launch: grid=1 block=128 args=f32[100] u32:100
// expect: out-of-bounds global block=0 warp=3 lane=4
KERNEL global_write_off_by_one(float *out, u32 n) {
    u32 i = threadIdx.x;
    if (i BUG_OR_REPAIR(<=, <) n) out[i] = 1.0f; // BUG
}

// A grid rounded up to whole blocks, and no guard.
// launch: grid=3 block=64 args=f32[130] u32:130
// expect: out-of-bounds global block=2
KERNEL global_write_without_guard(float *out, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    ONLY_REPAIRED(if (i < n))
    out[i] = (float)i; // BUG
}

// A stencil's right neighbour at the right edge.
// launch: grid=1 block=64 args=f32[64]=iota f32[64] u32:64
// expect: out-of-bounds global block=0 warp=1 lane=31
KERNEL global_read_past_the_edge(const float *in, float *out, u32 n) {
    u32 i = threadIdx.x;
    float right = BUG_OR_REPAIR(true, i + 1 < n) ? in[i + 1] : 0.0f; // BUG
    out[i] = in[i] + right;
}

// A stencil's left neighbour at the left edge: index -1.
// launch: grid=1 block=64 args=f32[64]=iota f32[64] i32:64
// expect: out-of-bounds global block=0 warp=0 lane=0
KERNEL global_read_before_the_start(const float *in, float *out, int n) {
    int i = threadIdx.x;
    float left = BUG_OR_REPAIR(i < n, i > 0) ? in[i - 1] : 0.0f; // BUG
    out[i] = in[i] - left;
}

// Rows and columns exchanged: 8 rows of 5, read as 5 rows of 8 with a pitch of 8.
// launch: grid=1 block=5,8 args=f32[40]=iota f32[40] u32:5 u32:8
// expect: out-of-bounds global block=0
KERNEL global_read_wrong_pitch(const float *in, float *out, u32 width, u32 height) {
    u32 x = threadIdx.x, y = threadIdx.y;
    float v = in[y * BUG_OR_REPAIR(height, width) + x]; // BUG
    out[y * width + x] = v;
}

// A vector load whose second half lies past the end: aligned, but the length is no multiple of 4.
// launch: grid=1 block=32 args=f32[126]=iota f32[32] u32:126
// expect: out-of-bounds global block=0 warp=0 lane=31
KERNEL global_vector_straddles_the_end(const float *in, float *out, u32 n) {
    u32 i = threadIdx.x * 4;
    float sum = 0.0f;
    if (BUG_OR_REPAIR(i, i + 3) < n) {
        float4 v = *(const float4 *)(in + i); // BUG
        sum = v.x + v.y + v.z + v.w; // BUG
    } else {
        for (; i < n; ++i) sum += in[i];
    }
    out[threadIdx.x] = sum;
}

// A histogram whose last bin is missing.
// launch: grid=1 block=32 args=u32[32]=iota u32[31]=zeros u32:31
// expect: out-of-bounds global block=0 warp=0 lane=31
KERNEL global_atomic_past_the_bins(const u32 *in, u32 *bins, u32 n) {
    u32 bin = in[threadIdx.x];
    if (BUG_OR_REPAIR(true, bin < n)) atomicAdd(bins + bin, 1u); // BUG
}

// An index in 32 bits that wraps, and passes the test as a negative number.
// launch: grid=1 block=32 args=f32[32] i32:2147483600 i32:32
// expect: out-of-bounds global block=0 warp=0 lane=24
KERNEL global_index_overflows(float *out, int start, int n) {
    int i = (int)((u32)start + threadIdx.x * 2);
    if (i < n ONLY_REPAIRED(&&i >= 0)) out[i] = 1.0f; // BUG
}

// A pointer that nobody set.
// launch: grid=1 block=32 args=u64:0 f32[32]
// expect: out-of-bounds global block=0 warp=0
KERNEL global_null_pointer(const float *bias, float *out) {
    float b = 0.0f;
    if (BUG_OR_REPAIR(out, bias) != nullptr) b = bias[0]; // BUG
    out[threadIdx.x] = b;
}

// A copy that does not pass the registers reads past the end all the same.
// launch: grid=1 block=32 args=f32[124]=iota f32[32] u32:124
// expect: out-of-bounds global block=0 warp=0 lane=31
KERNEL global_async_copy_past_the_end(const float *in, float *out, u32 n) {
    __shared__ __align__(16) float tile[128];
    u32 i = threadIdx.x * 4;
    if (BUG_OR_REPAIR(true, i < n)) copy_async_16(tile + i, in + i); // BUG
    copy_async_wait_all();
    out[threadIdx.x] = i < n ? tile[i] : 0.0f;
}

// The halo of a tile that was declared without it.
// launch: grid=1 block=64 args=f32[64]=iota f32[64]
// expect: out-of-bounds shared block=0 warp=1 lane=31
KERNEL shared_write_off_by_one(const float *in, float *out) {
    __shared__ float tile[BUG_OR_REPAIR(64, 65)];
    u32 t = threadIdx.x;
    tile[t + 1] = in[t]; // BUG
    __syncthreads();
    out[t] = t > 0 ? tile[t] : 0.0f;
}

// The left neighbour of thread 0.
// launch: grid=1 block=64 args=f32[64]=iota f32[64] i32:64
// expect: out-of-bounds shared block=0 warp=0 lane=0
KERNEL shared_read_before_the_start(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int t = threadIdx.x;
    tile[t] = in[t];
    __syncthreads();
    out[t] = BUG_OR_REPAIR(t < n, t > 0) ? tile[t - 1] : 0.0f; // BUG
}

// The last element of one array, plus one: what lies there belongs to no variable, whatever is declared next.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:1
// expect: out-of-bounds shared block=0 warp=0 lane=31
KERNEL shared_between_two_arrays(const u32 *in, u32 *out, u32 one) {
    __shared__ u32 first[32], second[32];
    u32 t = threadIdx.x;
    second[31 - t] = in[t];
    first[BUG_OR_REPAIR(t + one, (t + one) & 31)] = in[t]; // BUG
    __syncwarp();
    out[t] = first[t == 0 ? 1 : t] + second[t];
}

// Dynamic shared memory for 32 floats, used by 64 threads.
// launch: grid=1 block=64 shared=128 args=f32[64]=iota f32[64]
// repaired: grid=1 block=64 shared=256 args=f32[64]=iota f32[64]
// expect: out-of-bounds shared block=0 warp=1 lane=0
KERNEL shared_past_the_dynamic_size(const float *in, float *out) {
    extern __shared__ float dynamic[];
    u32 t = threadIdx.x;
    dynamic[t] = in[t]; // BUG
    __syncthreads();
    out[t] = dynamic[t ^ 1]; // BUG
}

// Two arrays carved from one allocation; the second begins at bytes that were counted as floats.
// launch: grid=1 block=32 shared=256 args=f32[32]=iota f32[32] u32:32
// expect: out-of-bounds shared block=0 warp=0
KERNEL shared_carved_in_the_wrong_unit(const float *in, float *out, u32 n) {
    extern __shared__ float dynamic[];
    float *second = dynamic + n * BUG_OR_REPAIR(sizeof(float), 1);
    u32 t = threadIdx.x;
    dynamic[t] = in[t];
    second[t] = in[t]; // BUG
    __syncwarp();
    out[t] = dynamic[t] + second[t]; // BUG
}

// A vector read of which the second half is not there: 34 floats hold 17 pairs, or 8 and a half fours.
// launch: grid=1 block=32 shared=136 args=f32[34]=iota f32[32] u32:34
// expect: out-of-bounds shared block=0 warp=0 lane=8
KERNEL shared_vector_straddles_the_end(const float *in, float *out, u32 n) {
    extern __shared__ __align__(16) float vectors[];
    u32 t = threadIdx.x;
    vectors[t] = in[t];
    if (t < 2) vectors[t + 32] = in[t + 32];
    __syncwarp();
    float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (t * 4 + BUG_OR_REPAIR(0, 3) < n) v = *(float4 *)(vectors + t * 4); // BUG
    out[t] = v.x + v.y + v.z + v.w; // BUG
}

// A row too many for ldmatrix: the address of row 16 of 16.
// launch: grid=1 block=32 args=u32[128]=iota u32[32]
// expect: out-of-bounds shared block=0 warp=0
KERNEL shared_matrix_row_past_the_tile(const u32 *in, u32 *out) {
    __shared__ __align__(16) u32 tile[32 * 4];
    u32 t = threadIdx.x;
    for (u32 i = t; i < 128; i += 32) tile[i] = in[i];
    __syncwarp();
    u32 r[4];
    load_matrix_x4(r, tile + (t + BUG_OR_REPAIR(1, 0)) * 4); // BUG
    out[t] = r[0] + r[1] + r[2] + r[3];
}

// A thread's own array, indexed one too far.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:8
// expect: out-of-bounds local block=0 warp=0
KERNEL local_write_off_by_one(const u32 *in, u32 *out, u32 n) {
    volatile u32 seen[8];
    u32 t = threadIdx.x;
    for (u32 i = 0; i BUG_OR_REPAIR(<=, <) n; ++i) seen[i] = in[t] + i; // BUG
    out[t] = seen[t & 7];
}

// A look-up with a key outside the table.
// launch: grid=1 block=32 args=i32[32]=iota u32[32] i32:1
// expect: out-of-bounds local block=0 warp=0 lane=0
KERNEL local_read_before_the_start(const int *in, u32 *out, int shift) {
    volatile u32 table[4];
    for (u32 i = 0; i < 4; ++i) table[i] = i * i;
    int key = in[threadIdx.x] & 3;
    out[threadIdx.x] = table[key - BUG_OR_REPAIR(shift, 0)]; // BUG
}
