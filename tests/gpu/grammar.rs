//! What `build.rs` reads in a file of kernels, and what it refuses.

use crate::support::programs::kernel::{ParameterKind, Source};

const GOOD: &str = "\
// good.cu: a sum.
//
//   types    f32 bf16        sums in f32
//   weights  f16
#include \"common.cuh\"
constexpr int THREADS = 256;
extern \"C\" __global__ void __launch_bounds__(256) add(const elem* x, const weight* w,
                                                   inout double* sum, int N,
                                                   long long stride, float eps,
                                                   unsigned char* flags) {
}
";

#[test]
fn a_file_says_types_constants_and_signatures() {
    let source = Source::parse("kernels/good.cu", GOOD).unwrap();
    assert_eq!(source.name, "good");
    assert_eq!(source.variants(), [("f32", "f16"), ("bf16", "f16")]);
    assert_eq!(source.constants, [("THREADS".to_owned(), 256)]);
    let [add] = &source.kernels[..] else { panic!("one kernel") };
    assert_eq!((add.name.as_str(), add.line), ("add", 7));
    let kinds: Vec<_> = add.parameters.iter().map(|p| (p.name.as_str(), p.kind.clone())).collect();
    assert_eq!(
        kinds,
        [
            ("x", ParameterKind::In("elem".into())),
            ("w", ParameterKind::In("weight".into())),
            ("sum", ParameterKind::InOut("double".into())),
            ("N", ParameterKind::Scalar("i32")),
            ("stride", ParameterKind::Scalar("i64")),
            ("eps", ParameterKind::Scalar("f32")),
            ("flags", ParameterKind::Out("unsigned char".into())),
        ]
    );
}

#[test]
fn anything_else_is_refused_with_file_and_line() {
    for (was, is, line, words) in [
        ("f32 bf16        sums", "f32 f8        sums", 3, "`f8` is none of the types"),
        ("//   types    f32 bf16        sums in f32\n", "//\n", 1, "no line of `types`"),
        ("//   weights  f16\n", "//\n", 1, "`weights` and parameters of type weight"),
        ("= 256;", "= 1 << 8;", 6, "is not `NAME = number;`"),
        ("inout double* sum", "short* sum", 7, "parameter `short* sum`"),
        ("int N", "unsigned N", 7, "parameter `unsigned N`"),
        ("extern \"C\" __global__ void", "__global__ void", 7, "a kernel begins"),
        ("{\n}\n", "\n", 7, "ends in a signature"),
        ("constexpr", "struct Shared { int x; };\nconstexpr", 1, "`struct Shared` and shared()"),
    ] {
        assert!(GOOD.contains(was), "{was}");
        let said = Source::parse("kernels/good.cu", &GOOD.replacen(was, is, 1)).unwrap_err();
        let place = format!("kernels/good.cu:{line}: ");
        assert!(said.starts_with(&place) && said.contains(words), "{said}");
    }
}
