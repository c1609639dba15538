use super::super::zip::{entries, tests::archive};
use super::*;
use proptest::prelude::*;

const P: &str = "w.pth";

fn text(text: &str) -> Vec<u8> {
    let mut b = b"X".to_vec();
    b.extend((text.len() as u32).to_le_bytes());
    b.extend(text.as_bytes());
    b
}

fn int(value: usize) -> Vec<u8> {
    let mut b = b"J".to_vec();
    b.extend((value as i32).to_le_bytes());
    b
}

fn tuple(values: &[usize]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|&v| int(v)).collect(), b"t".to_vec()].concat()
}

/// What of a tensor is pickled: storage key, class of storage, elements of the storage, and the view.
struct Case<'a> {
    key: &'a str,
    class: &'a str,
    count: usize,
    offset: usize,
    shape: &'a [usize],
    strides: &'a [usize],
    /// The sixth part of the storage's reference, in the older layout.
    view: &'a [u8],
}

impl Case<'_> {
    fn pickled(&self) -> Vec<u8> {
        let (module, class) = self.class.rsplit_once('.').unwrap();
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
            text("storage"),
            format!("c{module}\n{class}\n").into_bytes(),
            text(self.key),
            text("cuda:0"),
            int(self.count),
            self.view.to_vec(),
            b"tQ".to_vec(),
            int(self.offset),
            tuple(self.shape),
            tuple(self.strides),
            b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
        ]
        .concat()
    }
}

const PLAIN: Case<'static> = Case {
    key: "0",
    class: "torch.FloatStorage",
    count: 6,
    offset: 0,
    shape: &[2, 3],
    strides: &[3, 1],
    view: b"",
};

/// {'a.weight': tensor, …} as an OrderedDict with `_metadata`, the way `state_dict()` is pickled.
fn dict(cases: &[(&str, Case<'_>)]) -> Vec<u8> {
    let mut b = b"ccollections\nOrderedDict\n)R(".to_vec();
    for (name, case) in cases {
        b.extend(text(name));
        b.extend(case.pickled());
    }
    b.extend(b"u}");
    b.extend(text("_metadata"));
    b.extend(b"}sb");
    b
}

fn program(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

fn zip_file(object: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pickle = program(object);
    let names: Vec<String> = storages.iter().map(|(key, _)| format!("archive/data/{key}")).collect();
    let mut list: Vec<(&str, &[u8])> = vec![("archive/data.pkl", &pickle), ("archive/byteorder", b"little")];
    list.extend(names.iter().zip(storages).map(|(name, (_, data))| (name.as_str(), data.as_slice())));
    list.push(("archive/version", b"3\n"));
    archive(&list)
}

fn old_file(object: &[u8], storages: &[(&str, usize, Vec<u8>)]) -> Vec<u8> {
    let mut b = [b"\x80\x02".as_slice(), MAGIC].concat();
    b.extend(program(&int(1001)));
    b.extend(program(&[b"}".to_vec(), text("little_endian"), b"\x88s".to_vec()].concat()));
    b.extend(program(object));
    let keys: Vec<u8> = storages.iter().flat_map(|(key, _, _)| text(key)).collect();
    b.extend(program(&[b"](".as_slice(), &keys, b"e"].concat()));
    for (_, count, data) in storages {
        b.extend((*count as u64).to_le_bytes());
        b.extend(data);
    }
    b
}

fn read(bytes: &[u8]) -> Result<Vec<StoredTensor>> {
    let path = Path::new(P);
    let mut budget = Budget::new(bytes.len());
    if is_old(bytes) {
        return Archive::from_old(path, bytes, &mut budget)?.state_dict(&mut budget);
    }
    let entries = entries(path, bytes, &mut budget)?;
    Archive::from_zip(path, &entries, &mut budget)?.state_dict(&mut budget)
}

fn sample_zip() -> Vec<u8> {
    let half: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let cases = [
        ("a.weight", PLAIN),
        (
            "a.bias",
            Case { key: "1", class: "torch.cuda.HalfStorage", count: 2, shape: &[2], strides: &[1], ..PLAIN },
        ),
        (
            "a.steps",
            Case { key: "2", class: "torch.LongStorage", count: 1, shape: &[], strides: &[], ..PLAIN },
        ),
    ];
    let steps = 7i64.to_le_bytes().to_vec();
    zip_file(&dict(&cases), &[("0", floats(6)), ("1", half), ("2", steps)])
}

fn sample_old() -> Vec<u8> {
    let view = [b"(".to_vec(), text("9"), int(2), int(4), b"t".to_vec()].concat();
    let cases = [
        ("a.weight", Case { view: b"N", ..PLAIN }),
        ("a.bias", Case { view: &view, shape: &[4], strides: &[1], ..PLAIN }),
    ];
    old_file(&dict(&cases), &[("0", 6, floats(6))])
}

#[test]
fn both_layouts_are_read() {
    let tensors = read(&sample_zip()).unwrap();
    let names: Vec<_> = tensors.iter().map(|t| (t.name.as_str(), t.dtype)).collect();
    assert_eq!(names, [("a.weight", Dtype::F32), ("a.bias", Dtype::F16), ("a.steps", Dtype::I64)]);
    assert_eq!(tensors[0].tensor.data(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(tensors[1].tensor.data(), [1.5, -2.0]);
    assert_eq!(tensors[2].tensor.data(), [7.0]);
    let tensors = read(&sample_old()).unwrap();
    assert_eq!(tensors[0].tensor.shape(), [2, 3]);
    assert_eq!(tensors[1].tensor.data(), [2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn offsets_and_strides_are_respected() {
    let one = |case| {
        let bytes = zip_file(&dict(&[("t", case)]), &[("0", floats(6))]);
        read(&bytes).map(|mut t| t.remove(0).tensor.into_data())
    };
    assert_eq!(
        one(Case { shape: &[3, 2], strides: &[1, 3], ..PLAIN }).unwrap(),
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    );
    assert_eq!(
        one(Case { offset: 1, shape: &[2, 2], strides: &[3, 1], ..PLAIN }).unwrap(),
        [1.0, 2.0, 4.0, 5.0]
    );
    assert_eq!(one(Case { offset: 5, shape: &[3], strides: &[0], ..PLAIN }).unwrap(), [5.0; 3]);
    assert_eq!(one(Case { shape: &[0, 9], strides: &[9, 1], ..PLAIN }).unwrap(), [0f32; 0]);
    assert_eq!(one(Case { offset: 3, shape: &[1, 3], strides: &[77, 1], ..PLAIN }).unwrap(), [3.0, 4.0, 5.0]);
    for bad in [
        Case { offset: 1, ..PLAIN },
        Case { strides: &[4, 1], ..PLAIN },
        Case { strides: &[1], ..PLAIN },
        Case { count: 7, ..PLAIN },
        Case { key: "5", ..PLAIN },
        Case { class: "torch.DoubleStorage", ..PLAIN },
        Case { shape: &[1; 9], strides: &[1; 9], ..PLAIN },
        Case { shape: &[1 << 30, 1 << 30], strides: &[0, 0], ..PLAIN },
        Case { shape: &[1 << 27], strides: &[0], ..PLAIN },
    ] {
        assert!(one(bad).is_err());
    }
}

#[test]
fn the_state_dict_is_found_or_the_choice_is_reported() {
    let inner = dict(&[("t", PLAIN)]);
    let nested = |names: &[&str]| {
        let mut b = b"}(".to_vec();
        b.extend([text("epoch"), int(3)].concat());
        for name in names {
            b.extend(text(name));
            b.extend(&inner);
        }
        b.extend(b"u");
        read(&zip_file(&b, &[("0", floats(6))]))
    };
    assert_eq!(nested(&["weights"]).unwrap()[0].name, "t");
    assert_eq!(nested(&["ema", "state_dict", "model"]).unwrap().len(), 1);
    let e = nested(&["ema", "net"]).unwrap_err();
    assert!(e.message().contains("`ema`") && e.message().contains("`net`"), "{e}");
    assert!(nested(&[]).unwrap_err().how_to_mend().unwrap().contains("state_dict"));
    let twice = dict(&[("t", PLAIN), ("t", PLAIN)]);
    assert!(read(&zip_file(&twice, &[("0", floats(6))])).unwrap_err().message().contains("twice"));
    let alone = read(&zip_file(&PLAIN.pickled(), &[("0", floats(6))])).unwrap();
    assert_eq!(alone[0].name, "tensor");
    let parameter =
        [b"ctorch._utils\n_rebuild_parameter\n(".to_vec(), PLAIN.pickled(), b"\x88}tR".to_vec()].concat();
    assert_eq!(read(&zip_file(&parameter, &[("0", floats(6))])).unwrap()[0].tensor.len(), 6);
}

#[test]
fn pickles_that_would_run_something_are_refused() {
    let e = read(&zip_file(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R", &[])).unwrap_err();
    assert!(e.message().contains("os.system"), "{e}");
    let module = b"(X\x06\x00\x00\x00modulectorch\nFloatStorage\nX\x01\x00\x00\x000X\x01\x00\x00\x000K\x01tQ";
    assert!(read(&old_file(module, &[])).is_err());
}

#[test]
fn every_cut_is_an_error() {
    for whole in [sample_zip(), sample_old()] {
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut to {cut} of {}", whole.len());
        }
        assert!(read(&[whole, vec![0]].concat()).is_err());
    }
}

#[test]
fn a_storage_within_the_pickle_is_read() {
    let storage = old_file(
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06NtQ",
        &[("0", 6, floats(6))],
    );
    let mut b = b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\nB".to_vec();
    b.extend((storage.len() as u32).to_le_bytes());
    b.extend(&storage);
    b.extend(b"\x85R");
    b.extend([int(0), tuple(&[3, 2]), tuple(&[2, 1])].concat());
    b.extend(b"\x89}tR.");
    let path = Path::new(P);
    let pickle = Pickle::parse(path, &b, 0, &mut Budget::new(b.len())).unwrap();
    assert!(is_tensor(&pickle, pickle.root));
    let tensor = embedded_tensor(path, &pickle, pickle.root, "cam", &mut Budget::new(b.len())).unwrap();
    assert_eq!((tensor.tensor.shape(), tensor.tensor.data()[5]), (&[3usize, 2][..], 5.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn damaged_files_are_values_or_errors(
        old: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut bytes, pickle) = if old {
            let bytes = sample_old();
            let all = 0..bytes.len();
            (bytes, all)
        } else {
            let bytes = sample_zip();
            let start = bytes.windows(2).position(|w| w == b"\x80\x02").unwrap();
            (bytes, start..start + 400)
        };
        for (at, value) in changes {
            bytes[pickle.start + at.index(pickle.len())] = value;
        }
        let _ = read(&bytes);
        if !old {
            // Past the checksum, straight into the pickle.
            let path = Path::new(P);
            let parts = [
                Entry { name: "data.pkl", data: &bytes[pickle] },
                Entry { name: "data/0", data: &[0; 24] },
            ];
            let mut budget = Budget::new(1000);
            if let Ok(archive) = Archive::from_zip(path, &parts, &mut budget) {
                let _ = archive.state_dict(&mut budget);
            }
        }
    }
}
