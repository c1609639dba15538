//! Single instructions against their definition: exact integers, exact reals rounded as IEEE 754 says, f64 for the
//! approximate functions; over special values in all combinations and over random ones.

#![expect(
    clippy::type_complexity,
    reason = "tables of an instruction's form and its rule, each read where it stands"
)]

mod approximate;
mod compare;
mod convert;
mod exact;
mod float;
mod integer;
mod tensor;
mod warp;

use ptx_emulator::{Module, Options, ParameterBytes};

use crate::support::{Device, Random, Shape};
use exact::Format;

/// What an instruction may give.
#[derive(Debug)]
enum Want {
    /// These bits.
    Bits(u64),
    /// Either of these.
    Either(u64, u64),
    /// Any NaN of a format.
    Nan(Format),
    /// An f32, f16 or bf16 not further off than this.
    Near { format: Format, value: f64, error: f64 },
    /// Not defined.
    Anything,
}

impl Want {
    fn holds(&self, got: u64) -> bool {
        match *self {
            Self::Bits(bits) => got == bits,
            Self::Either(a, b) => got == a || got == b,
            Self::Nan(format) => format.is_nan(got),
            Self::Near { format, value, error } => {
                let got = to_f64(format, got);
                got == value || (got - value).abs() <= error
            }
            Self::Anything => true,
        }
    }
}

/// A float's value.
fn to_f64(format: Format, bits: u64) -> f64 {
    match format.width() {
        64 => f64::from_bits(bits),
        32 => f64::from(f32::from_bits(bits as u32)),
        _ => match format.decode(bits) {
            exact::Value::Nan => f64::NAN,
            exact::Value::Infinite { negative } => {
                if negative {
                    f64::NEG_INFINITY
                } else {
                    f64::INFINITY
                }
            }
            exact::Value::Finite(v) => f64::from_bits(exact::F64.round(&v, exact::Rounding::Nearest).0),
        },
    }
}

/// One instruction (or a few) with its inputs and what it is to give.
struct Row<'a> {
    /// PTX with `{d}` for the result, `{a}`, `{b}`, `{c}` for the inputs, `{p}` and `{q}` for predicates.
    text: String,
    /// Bits of the inputs: 16, 32 or 64.
    inputs: Vec<u32>,
    /// Bits of the result.
    output: u32,
    /// What it is to give.
    want: Box<dyn Fn(&[u64]) -> Want + 'a>,
    /// Inputs, `inputs.len()` a case.
    cases: &'a [Vec<u64>],
}

const HEAD: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

/// A kernel that applies one row to the case of each thread.
fn kernel(number: usize, row: &Row<'_>) -> String {
    let mut text =
        format!(".visible .entry row{number}(.param .u64 in, .param .u64 out, .param .u32 n)\n{{\n");
    text += "\t.reg .pred %p<4>;\n\t.reg .b16 %s<8>;\n\t.reg .b32 %r<12>;\n\t.reg .b64 %d<16>;\n";
    text += "\tmov.u32 %r8, %tid.x;\n\tmov.u32 %r9, %ctaid.x;\n\tmov.u32 %r10, %ntid.x;\n";
    text += "\tmad.lo.u32 %r8, %r9, %r10, %r8;\n\tld.param.u32 %r9, [n];\n";
    text += "\tsetp.ge.u32 %p3, %r8, %r9;\n\t@%p3 bra END;\n";
    text += "\tld.param.u64 %d8, [in];\n\tld.param.u64 %d9, [out];\n";
    text += "\tcvta.to.global.u64 %d8, %d8;\n\tcvta.to.global.u64 %d9, %d9;\n";
    let stride = row.inputs.len() * 8;
    text += &format!("\tmul.wide.u32 %d10, %r8, {stride};\n\tadd.u64 %d8, %d8, %d10;\n");
    text += "\tmul.wide.u32 %d10, %r8, 8;\n\tadd.u64 %d9, %d9, %d10;\n";
    let register = |bits: u32, number: usize| match bits {
        16 => format!("%s{number}"),
        32 => format!("%r{number}"),
        _ => format!("%d{number}"),
    };
    let mut instruction = row.text.clone();
    for (i, bits) in row.inputs.iter().enumerate() {
        let name = register(*bits, i + 1);
        text += &format!("\tld.global.b{bits} {name}, [%d8+{}];\n", i * 8);
        instruction = instruction.replace(["{a}", "{b}", "{c}"][i], &name);
    }
    let result = register(row.output, 0);
    instruction = instruction.replace("{d}", &result).replace("{p}", "%p0").replace("{q}", "%p1");
    instruction =
        instruction.replace("{t}", "%d4").replace("{u}", "%d5").replace("{r}", "%r4").replace("{s}", "%r5");
    text + &format!("\t{instruction}\n\tst.global.b{} [%d9], {result};\nEND:\n\tret;\n}}\n", row.output)
}

/// Runs all rows and reports what is wrong, a few cases a row.
fn check(rows: &[Row<'_>]) {
    let mut source = HEAD.to_owned();
    for (i, row) in rows.iter().enumerate() {
        source += &kernel(i, row);
    }
    let module = Module::parse(&source, "truth.ptx").unwrap_or_else(|e| panic!("{e}"));
    let mut wrong = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        assert!(!row.cases.is_empty(), "{}", row.text);
        let mut device = Device::new(&module);
        let input: Vec<u8> = row.cases.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        let (input, output) = (device.buffer(&input), device.buffer(&vec![0; row.cases.len() * 8]));
        let n = row.cases.len() as u32;
        let name = format!("row{i}");
        let shape = Shape { kernel: &name, grid: [n.div_ceil(128), 1, 1], block: [128, 1, 1], shared: 0 };
        let parameters = ParameterBytes::new().address(input).address(output).u32(n);
        let report = device.launch(&shape, &parameters, &Options::default());
        assert!(report.findings.is_empty(), "{}: {}", row.text, report.findings[0]);
        let results = device.read(output, row.cases.len() * 8);
        let mut bad = 0;
        for (case, got) in row.cases.iter().zip(results.chunks_exact(8)) {
            let got = u64::from_le_bytes(got.try_into().expect("eight bytes"));
            let want = (row.want)(case);
            if !want.holds(got) {
                bad += 1;
                if bad <= 3 {
                    wrong.push(format!("{}  of {case:x?}: {got:#x}, not {want:x?}", row.text));
                }
            }
        }
        if bad > 3 {
            wrong.push(format!("{}: {bad} of {} cases", row.text, row.cases.len()));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// All combinations of `special`, `arity` at a time, and `random` rows from `next`.
fn combine(
    arity: usize,
    special: &[u64],
    random: usize,
    mut next: impl FnMut(usize) -> Vec<u64>,
) -> Vec<Vec<u64>> {
    let mut cases: Vec<Vec<u64>> = vec![Vec::new()];
    for _ in 0..arity {
        cases =
            cases.iter().flat_map(|c| special.iter().map(move |s| [c.as_slice(), &[*s]].concat())).collect();
    }
    cases.extend((0..random).map(&mut next));
    cases
}

/// Special values of a format: zeros, subnormals, the ends of the ranges, ones and their neighbours, ties, NaN, infinities.
fn special_floats(format: Format) -> Vec<u64> {
    let (one, infinity, unit) = (format.one(), format.infinity(), 1 << format.mantissa);
    let positive = [
        0,
        1,
        unit / 2,
        unit - 1,
        unit,
        unit + 1,
        one - 1,
        one,
        one + 1,
        one + unit,
        one + unit / 2,
        one - unit,
        one + unit * u64::from(format.mantissa),
        infinity - 1,
        infinity - unit,
        infinity,
        infinity + unit / 2,
        infinity + 1,
    ];
    positive.iter().flat_map(|v| [*v, *v | format.sign()]).collect()
}

/// Random floats: any bits, or bits near those of the first, so that sums cancel and round.
fn random_floats(format: Format, arity: usize, random: &mut Random) -> Vec<u64> {
    let all = u64::MAX >> (64 - format.width());
    let first = random.bits() & all;
    let mut case = vec![first];
    let near = random.u32().is_multiple_of(2);
    while case.len() < arity {
        let other = if near {
            let step = u64::from(random.u32() % (2 * format.mantissa)) << format.mantissa;
            (first ^ (random.bits() & (format.sign() | ((1 << format.mantissa) - 1))))
                .wrapping_add(step)
                .wrapping_sub(u64::from(format.mantissa) << format.mantissa)
        } else {
            random.bits()
        };
        case.push(other & all);
    }
    case
}

/// Cases of `arity` floats.
fn float_cases(format: Format, arity: usize) -> Vec<Vec<u64>> {
    let mut random = Random(format.width().into());
    let special = special_floats(format);
    // All triples of 36 would be 46,656: of three inputs a shorter list is combined.
    let special: Vec<u64> = if arity == 3 { special.into_iter().step_by(3).collect() } else { special };
    combine(arity, &special, 1500, |_| random_floats(format, arity, &mut random))
}

/// Cases of integers of given widths: edges, powers of two and their neighbours, and random ones.
fn integer_cases(widths: &[u32]) -> Vec<Vec<u64>> {
    let mut random = Random(widths.iter().sum::<u32>().into());
    let special: Vec<u64> =
        [0, 1, 2, 3, 7, 15, 31, 32, 33, 63, 64, 65, 127, 128, 255, 0x7fff, 0x8000, 0xffff]
            .into_iter()
            .chain([
                0x7fff_ffff,
                0x8000_0000,
                0xffff_ffff,
                i64::MAX as u64,
                1 << 63,
                u64::MAX,
                0x1234_5678_9abc_def0,
            ])
            .chain([0xffff_fff0, 0x0080_0000, 0x00ff_ffff, 0xff80_0000])
            .collect();
    let special: Vec<u64> =
        if widths.len() == 3 { special.into_iter().step_by(2).collect() } else { special };
    let mut cases = combine(widths.len(), &special, 800, |_| {
        widths.iter().map(|_| random.bits() >> (random.u32() % 64)).collect()
    });
    for case in &mut cases {
        for (value, width) in case.iter_mut().zip(widths) {
            if *width < 64 {
                *value &= (1 << width) - 1;
            }
        }
    }
    cases.sort_unstable();
    cases.dedup();
    cases
}
