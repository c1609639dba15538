//! The lattices that the GPU builds against those of the CPU, table by table, on the emulated GPU.
