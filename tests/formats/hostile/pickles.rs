//! Pickles, as the object of a state dict: programs for a stack machine.

use super::Reader::{Maps, Tags, Weights};
use super::{Case, case};
use crate::writers::*;

/// The pickle as `data.pkl` of a sound archive.
fn archived(pickle: &[u8]) -> Vec<u8> {
    zip(&[
        Entry::new("archive/data.pkl", pickle),
        Entry::new("archive/data/0", &counting(6)),
        Entry::new("archive/version", b"3\n"),
    ])
}

fn body(body: &[u8]) -> Vec<u8> {
    archived(&program(body))
}

/// So many opcodes, after a mark.
fn many(opcode: &[u8], count: usize) -> Vec<u8> {
    body(&cat(&[b"(", &opcode.repeat(count)]))
}

const MILLION: usize = 1 << 20;

pub fn cases() -> Vec<Case> {
    let system = b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R";
    // Storages within storages within storages …
    let mut matryoshka = b"N".to_vec();
    for _ in 0..12 {
        let inner = torch_old(&matryoshka, &[]);
        matryoshka = cat(&[
            b"ctorch.storage\n_load_from_bytes\nB",
            &(inner.len() as u32).to_le_bytes(),
            &inner,
            b"\x85R",
        ]);
    }
    // Ten references to the list before, twenty times over: 10²⁰ items, were it followed.
    let laughs: Vec<u8> =
        (0..20u8).flat_map(|i| cat(&[b"](", &[b'h', i].repeat(10), b"eq", &[i + 1]])).collect();
    let long = "k".repeat(4 * MILLION);
    // One long text as the key of a million dictionaries.
    let long_keys = cat(&[b"}(", &text(&long), b"q\x00}", &b"h\x00}".repeat(MILLION), b"u"]);
    let long_storage_keys = cat(&[
        b"(",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(&long),
        &text("cpu"),
        &int(6),
        b"tq\x00Q",
        &b"h\x00Q".repeat(MILLION),
        b"t",
    ]);
    // One embedded storage, long to read, named by very many tensors.
    let slow = torch_old(&cat(&[&b"K\x000".repeat(MILLION), b"N"]), &[]);
    let tensor = cat(&[b"ctorch._utils\n_rebuild_tensor_v2\n(h\x05", &int(0), b")))N}tR"]);
    let embedded = cat(&[
        b"\x80\x03ctorch.storage\n_load_from_bytes\nB",
        &(slow.len() as u32).to_le_bytes(),
        &slow,
        b"\x85Rq\x05}(",
        &(0..2000).flat_map(|i| cat(&[&int(i), &tensor])).collect::<Vec<u8>>(),
        b"u.",
    ]);
    // A text with a letter that is no byte.
    let letters = cat(&[
        b"\x80\x02}(K\x01cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01",
        &tuple(&[1, 1]),
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89c_codecs\nencode\n",
        &text("ab€d"),
        &text("latin1"),
        b"\x86Rtbu.",
    ]);
    vec![
        case("pickle-os-system", Weights, body(system), "os.system"),
        case(
            "pickle-posix-system",
            Weights,
            body(b"cposix\nsystem\nX\x02\x00\x00\x00ls\x85R"),
            "posix.system",
        ),
        case("pickle-eval", Weights, archived(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), "builtins.eval"),
        case("pickle-subprocess", Weights, body(b"csubprocess\nPopen\n)R"), "subprocess.Popen"),
        case("pickle-getattr", Weights, body(b"c__builtin__\ngetattr\n)R"), "getattr"),
        case("pickle-torch-load", Weights, body(b"ctorch\nload\n)R"), "torch.load"),
        case("pickle-a-model", Weights, body(b"ctorch.nn.modules.conv\nConv2d\n)\x81}b"), "Conv2d"),
        case(
            "pickle-name-within-a-name",
            Weights,
            archived(b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."),
            "fromkeys",
        ),
        case("pickle-inst", Weights, body(b"(ios\nsystem\n"), "0x69"),
        case("pickle-obj", Weights, body(b"(N)o"), "0x6f"),
        case("pickle-newobj", Weights, body(b"ccollections\nOrderedDict\n)\x81"), "0x81"),
        case("pickle-newobj-ex", Weights, archived(b"\x80\x04N)}\x92."), "0x92"),
        case("pickle-extension", Weights, body(b"\x82\x01"), "0x82"),
        case("pickle-persistent-text", Weights, body(b"P0\n"), "0x50"),
        case("pickle-long4", Weights, body(b"\x8b\xff\xff\xff\x7f"), "0x8b"),
        case("pickle-out-of-band", Weights, archived(b"\x80\x05\x97."), "0x97"),
        case("pickle-protocol-0", Weights, archived(b"I42\n."), "0x49"),
        case("pickle-protocol-255", Weights, archived(b"\x80\xff."), "protocol 255"),
        case("pickle-empty", Weights, archived(b""), "cut off"),
        case("pickle-only-stop", Weights, archived(b"."), "stack is empty"),
        case("pickle-without-stop", Weights, archived(b"\x80\x02}"), "cut off"),
        case("pickle-call-of-nothing", Weights, body(b"R"), "stack is empty"),
        case("pickle-call-of-a-number", Weights, body(b"K\x01)R"), "no function"),
        case("pickle-call-of-a-dict", Weights, body(b"})R"), "no function"),
        case("pickle-call-without-tuple", Weights, body(b"ccollections\nOrderedDict\nNR"), "arguments"),
        case("pickle-odd-entries", Weights, body(b"}(K\x01u"), "dictionary"),
        case("pickle-entries-of-a-list", Weights, body(b"]K\x01K\x02s"), "dictionary"),
        case("pickle-items-of-a-dict", Weights, body(b"}K\x01a"), "no list"),
        case("pickle-below-the-mark", Weights, body(b"K\x01K\x02(\x86"), "stack is empty"),
        case("pickle-mark-missing", Weights, body(b"K\x01t"), "mark"),
        case("pickle-state-of-a-number", Weights, body(b"K\x01}b"), "takes none"),
        case("pickle-state-of-a-tensor", Weights, body(&cat(&[&PLAIN.pickled(), b"}b"])), "takes none"),
        case(
            "pickle-ordered-dict-of-numbers",
            Weights,
            body(b"ccollections\nOrderedDict\n](K\x01K\x02e\x85R"),
            "pairs",
        ),
        case(
            "pickle-ordered-dict-of-itself",
            Weights,
            body(b"ccollections\nOrderedDict\n]q\x00h\x00a\x85R"),
            "pairs",
        ),
        case("pickle-memo-unset", Weights, body(b"h\x05"), "before it is stored"),
        case("pickle-memo-unset-wide", Weights, body(b"j\xff\xff\xff\xff"), "before it is stored"),
        case("pickle-memo-of-nothing", Weights, body(b"q\x00"), "stack is empty"),
        case(
            "pickle-memo-sparse",
            Weights,
            body(&cat(&[
                b"N",
                &(0..3 * MILLION as u32).flat_map(|i| cat(&[b"r", &(!i).to_le_bytes()])).collect::<Vec<u8>>(),
            ])),
            "warrants",
        ),
        case("pickle-memo-dense", Weights, body(&cat(&[b"]", &[0x94].repeat(17 * MILLION)])), "warrants"),
        case("pickle-list-in-itself", Weights, body(b"]q\x00h\x00a"), "no tensors"),
        case("pickle-dict-in-itself", Weights, body(b"}q\x00X\x01\x00\x00\x00ah\x00s"), "no tensors"),
        case("pickle-tuple-of-itself", Weights, body(b"]q\x00h\x00\x85a"), "no tensors"),
        case("pickle-persistent-of-itself", Weights, body(b"]q\x00h\x00Qa"), "no tensors"),
        case("pickle-depth", Weights, body(&cat(&[b"]", &[0x85].repeat(600_000)])), "no tensors"),
        case(
            "pickle-depth-of-dicts",
            Weights,
            body(&cat(&[&b"}K\x00".repeat(100_000), b"N", &b"s".repeat(100_000)])),
            "no tensors",
        ),
        case("pickle-laughs", Weights, body(&cat(&[b"]q\x00", &laughs])), "no tensors"),
        case("pickle-storages-in-storages", Weights, body(&dict(&[("a", matryoshka)])), "no tensors"),
        case("pickle-marks", Weights, body(&b"(".repeat(16 * MILLION)), "warrants"),
        case("pickle-stack", Weights, many(b"N", 16 * MILLION), "warrants"),
        case(
            "pickle-stack-of-one",
            Weights,
            body(&cat(&[b"]q\x00(", &b"h\x00".repeat(8 * MILLION)])),
            "no tensors",
        ),
        case("pickle-lists", Weights, many(b"]", 8 * MILLION), "warrants"),
        case("pickle-dicts", Weights, many(b"}", 8 * MILLION), "warrants"),
        case("pickle-tuples", Weights, many(b"K\x01\x85", 4 * MILLION), "warrants"),
        case("pickle-numbers", Weights, many(b"M\x00\x01", 6 * MILLION), "warrants"),
        case(
            "pickle-items",
            Weights,
            body(&cat(&[b"]q\x00", &b"(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00e".repeat(MILLION)])),
            "no tensors",
        ),
        case("pickle-text-of-2-32", Weights, body(b"X\xff\xff\xff\xff"), "cut off"),
        case(
            "pickle-text-of-2-64",
            Weights,
            archived(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff."),
            "cut off",
        ),
        case("pickle-bytes-of-2-63", Weights, archived(b"\x80\x04\x8e\0\0\0\0\0\0\0\x80."), "cut off"),
        case(
            "pickle-frame-of-2-64",
            Weights,
            archived(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff}."),
            "frame",
        ),
        case("pickle-text-not-utf8", Weights, body(b"X\x02\x00\x00\x00\xff\xfe"), "UTF-8"),
        case("pickle-name-without-end", Weights, body(&cat(&[b"c", &[b'a'; 5000]])), "without end"),
        case("pickle-name-of-a-number", Weights, archived(b"\x80\x04K\x01K\x02\x93."), "not a text"),
        case("pickle-one-key-a-million-times", Weights, body(&long_keys), "warrants"),
        case("pickle-one-storage-key-a-million-times", Weights, body(&long_storage_keys), ""),
        case("pickle-one-storage-read-over-and-over", Maps, npy_object(&embedded), ""),
        case("pickle-letters-as-bytes", Maps, npy_object(&letters), "not an array"),
        case("pickle-os-system-in-maps", Maps, npy_object(&program(system)), "os.system"),
        case("pickle-os-system-in-tags", Tags, npy_object(&program(system)), "os.system"),
    ]
}
