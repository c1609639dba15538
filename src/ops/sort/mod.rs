//! The stable order of long keys on a GPU: what the dense CRF's lattices are built by. The CPU's are built by a hash
//! table and need none.
//!
//! `order` is the permutation with `key[order[0]] ≤ key[order[1]] ≤ …` in which equal keys keep their order. A key is W
//! words of 32 bits, the most significant first, and only so many of a word's low bits may differ from 0: `bits`. The
//! sort goes from the least digit up, in ⌈bits / 8⌉ passes a word, and moves 20 bytes a key and pass.

pub mod cuda;
