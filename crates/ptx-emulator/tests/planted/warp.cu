// Warp operations that name lanes which do not take part.
#include "../cuda.cuh"

// A shuffle for all lanes, in a branch that half of them take.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:16
// expect: bad-mask register block=0 warp=0
KERNEL shuffle_in_a_branch(const u32 *in, u32 *out, u32 n) {
    u32 t = threadIdx.x, v = in[t];
    if (t < n) v += __shfl_xor_sync(BUG_OR_REPAIR(FULL, 0xffff), v, 1); // BUG
    out[t] = v;
}

// A shuffle whose mask leaves out lanes that execute it.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:65535
// expect: bad-mask register block=0 warp=0
KERNEL shuffle_mask_too_small(const u32 *in, u32 *out, u32 half) {
    u32 t = threadIdx.x;
    out[t] = __shfl_xor_sync(BUG_OR_REPAIR(half, half | half << 16), in[t], 1); // BUG
}

// The mask is right, but the lane that is read is not in it.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:8
// expect: bad-mask register block=0 warp=0
KERNEL shuffle_reads_a_lane_outside(const u32 *in, u32 *out, u32 n) {
    u32 t = threadIdx.x, v = in[t];
    if (t < n) v += __shfl_xor_sync(0xff, v, BUG_OR_REPAIR(8, 4)); // BUG
    out[t] = v;
}

// Threads past the end have returned before the warp adds up.
// launch: grid=1 block=32 args=f32[27]=iota f32[1] u32:27
// expect: bad-mask register block=0 warp=0
KERNEL shuffle_after_an_early_return(const float *in, float *out, u32 n) {
    u32 t = threadIdx.x;
    ONLY_BUG(if (t >= n) return;)
    float v = t < n ? in[t] : 0.0f;
    for (int by = 16; by > 0; by /= 2) v += __shfl_down_sync(FULL, v, by); // BUG
    if (t == 0) out[0] = v;
}

// A shuffle in a loop that lanes leave one by one.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:4
// expect: bad-mask register block=0 warp=0
KERNEL shuffle_in_a_ragged_loop(const u32 *in, u32 *out, u32 turns) {
    u32 t = threadIdx.x, v = in[t];
    for (u32 k = 0; k < turns + BUG_OR_REPAIR(t / 16, 0); ++k) v += __shfl_xor_sync(FULL, v, 1); // BUG
    out[t] = v;
}

// The leader's value is asked of a lane that did not enter the branch.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:8
// expect: bad-mask register block=0 warp=0
KERNEL shuffle_from_an_absent_leader(const u32 *in, u32 *out, u32 n) {
    u32 t = threadIdx.x, v = in[t];
    if (t >= n) v = __shfl_sync(0xffffff00u, v, BUG_OR_REPAIR(0, 8)); // BUG
    out[t] = v;
}

// A vote for all lanes, in a branch.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:20
// expect: bad-mask register block=0 warp=0
KERNEL vote_in_a_branch(const u32 *in, u32 *out, u32 n) {
    u32 t = threadIdx.x, v = 0;
    if (t < n) v = __ballot_sync(BUG_OR_REPAIR(FULL, 0xfffff), in[t] & 1); // BUG
    out[t] = v;
}

// All lanes are asked, in a branch.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:20
// expect: bad-mask register block=0 warp=0
KERNEL all_in_a_branch(const u32 *in, u32 *out, u32 n) {
    u32 t = threadIdx.x, v = 0;
    if (t < n) v = __all_sync(BUG_OR_REPAIR(FULL, 0xfffff), in[t] < 40); // BUG
    out[t] = v;
}

// Equal keys are looked for among lanes that are not there.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:24
// expect: bad-mask register block=0 warp=0
KERNEL match_in_a_branch(const u32 *in, u32 *out, u32 n) {
    u32 t = threadIdx.x, v = 0;
    if (t < n) v = __match_any_sync(BUG_OR_REPAIR(FULL, 0xffffff), in[t] / 3); // BUG
    out[t] = v;
}

// A one-instruction reduction of all lanes, in a branch.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:24
// expect: bad-mask register block=0 warp=0
KERNEL reduce_in_a_branch(const u32 *in, u32 *out, u32 n) {
    u32 t = threadIdx.x, v = 0;
    if (t < n) v = __reduce_add_sync(BUG_OR_REPAIR(FULL, 0xffffff), in[t]); // BUG
    out[t] = v;
}

// A mask of nobody.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:0
// expect: bad-mask register block=0 warp=0
KERNEL shuffle_mask_is_zero(const u32 *in, u32 *out, u32 zero) {
    u32 t = threadIdx.x;
    out[t] = __shfl_sync(BUG_OR_REPAIR(zero, ~zero), in[t], 0); // BUG
}

// All 32 lanes are named in the second warp of a block of 48 threads, which has 16.
// launch: grid=1 block=48 args=u32[48]=iota u32[48]
// expect: bad-mask register block=0 warp=1
KERNEL shuffle_in_half_a_warp(const u32 *in, u32 *out) {
    u32 t = threadIdx.x;
    u32 mask = t < 32 ? FULL : BUG_OR_REPAIR(FULL, 0xffff);
    out[t] = in[t] + __shfl_xor_sync(mask, in[t], 1); // BUG
}

// The same with a vote.
// launch: grid=1 block=40 args=u32[40]=iota u32[40]
// expect: bad-mask register block=0 warp=1
KERNEL vote_in_a_quarter_of_a_warp(const u32 *in, u32 *out) {
    u32 t = threadIdx.x;
    u32 mask = t < 32 ? FULL : BUG_OR_REPAIR(FULL, 0xff);
    __syncwarp(); // names lanes that the block does not have, as its default does everywhere: no fault
    out[t] = __ballot_sync(mask, in[t] & 1); // BUG
}
