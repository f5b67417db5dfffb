//! What a kernel file says of itself: element types, constants, and the signatures of its kernels.
//!
//! ```text
//! //   types    f32 bf16 f16          the file is compiled once for each: `elem`
//! //   weights  f32 bf16 f16          … times each of these, where `weight` occurs
//! constexpr int ROWS = 4;             a constant of the launch
//! extern "C" __global__ void name(const elem* x, inout float* dx, float* y, int N, float eps) {
//! ```
//!
//! `const` pointers are read, others written, `inout` ones both. Anything else is an error with the
//! file and the line.

/// A file of kernels.
#[derive(Debug, PartialEq)]
pub struct Source {
    /// `norm`, of `norm.cu`.
    pub name: String,
    /// Types `elem` stands for.
    pub elems: Vec<String>,
    /// Types `weight` stands for; empty where it does not occur.
    pub weights: Vec<String>,
    /// `constexpr int` of the file, by name.
    pub constants: Vec<(String, i64)>,
    /// Whether its blocks have a `struct Shared`.
    pub shared: bool,
    /// In the order of the file.
    pub kernels: Vec<Kernel>,
}

/// One kernel.
#[derive(Debug, PartialEq)]
pub struct Kernel {
    pub name: String,
    pub line: usize,
    pub parameters: Vec<Parameter>,
}

/// One parameter.
#[derive(Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub kind: ParameterKind,
}

/// What a parameter is.
#[derive(Clone, Debug, PartialEq)]
pub enum ParameterKind {
    /// Points at elements that are read.
    In(String),
    /// … that are written, all of them.
    Out(String),
    /// … that are read and written.
    InOut(String),
    /// A number: its Rust type.
    Scalar(&'static str),
}

/// Types a pointer may point at.
const POINTED: [&str; 6] = ["elem", "weight", "float", "double", "int", "unsigned char"];
/// Types of numbers, in CUDA and in Rust.
const SCALARS: [(&str, &str); 3] = [("int", "i32"), ("long long", "i64"), ("float", "f32")];
const TYPES: [&str; 3] = ["f32", "bf16", "f16"];

impl Source {
    /// Reads a file; an error is `file:line: what`.
    pub fn parse(file: &str, text: &str) -> Result<Source, String> {
        let stem = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".cu");
        let mut source = Source {
            name: stem.to_owned(),
            elems: Vec::new(),
            weights: Vec::new(),
            constants: Vec::new(),
            shared: text.contains("struct Shared"),
            kernels: Vec::new(),
        };
        let mut lines = text.lines().enumerate();
        while let Some((i, line)) = lines.next() {
            let bad = |what: String| format!("{file}:{}: {what}", i + 1);
            if let Some(types) = field(line, "types") {
                source.elems = types_of(types).map_err(bad)?;
            } else if let Some(types) = field(line, "weights") {
                source.weights = types_of(types).map_err(bad)?;
            } else if let Some(rest) = line.strip_prefix("constexpr int ") {
                source.constants.push(constant(rest).map_err(bad)?);
            } else if line.contains("__global__") {
                let mut head = line.to_owned();
                while !head.contains('{') {
                    let (_, next) =
                        lines.next().ok_or_else(|| bad("ends in a signature".into()))?;
                    head.push(' ');
                    head.push_str(next.trim());
                }
                source.kernels.push(kernel(&head, i + 1).map_err(bad)?);
            }
        }
        match source.complaint(text) {
            Some(what) => Err(format!("{file}:1: {what}")),
            None => Ok(source),
        }
    }

    fn complaint(&self, text: &str) -> Option<&'static str> {
        let all = || self.kernels.iter().flat_map(|k| &k.parameters);
        let points_at = |what: &str| all().any(|p| p.kind.pointed() == Some(what));
        match () {
            () if self.kernels.is_empty() => Some("no kernel"),
            () if self.elems.is_empty() => Some("no line of `types`"),
            () if points_at("weight") == self.weights.is_empty() => {
                Some("`weights` and parameters of type weight go together")
            }
            () if text.contains("shared()") != text.contains("struct Shared") => {
                Some("`struct Shared` and shared() go together")
            }
            () => None,
        }
    }

    /// The pairs of types the file is compiled for; the second is empty where there is none.
    pub fn variants(&self) -> Vec<(&str, &str)> {
        let weights: Vec<&str> = match &self.weights[..] {
            [] => vec![""],
            some => some.iter().map(String::as_str).collect(),
        };
        let pairs = |elem| weights.iter().map(move |weight| (elem, *weight));
        self.elems.iter().flat_map(|e| pairs(e.as_str())).collect()
    }
}

impl ParameterKind {
    /// What a pointer points at.
    pub fn pointed(&self) -> Option<&str> {
        match self {
            ParameterKind::In(t) | ParameterKind::Out(t) | ParameterKind::InOut(t) => Some(t),
            ParameterKind::Scalar(_) => None,
        }
    }
}

/// The rest of a header line `//   name   rest`.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.strip_prefix("//   ")?.strip_prefix(name)?;
    rest.starts_with(' ').then_some(rest)
}

/// Types at the beginning of a text; two spaces end them.
fn types_of(text: &str) -> Result<Vec<String>, String> {
    let list = text.trim_start().split("  ").next().unwrap_or_default();
    let known = |t: &str| {
        if TYPES.contains(&t) {
            Ok(t.to_owned())
        } else {
            Err(format!("`{t}` is none of the types {}", TYPES.join(", ")))
        }
    };
    list.split_whitespace().map(known).collect()
}

fn constant(rest: &str) -> Result<(String, i64), String> {
    let bad = || format!("`constexpr int {rest}` is not `NAME = number;`");
    let (name, value) = rest.split_once('=').ok_or_else(bad)?;
    let value = value.split(';').next().unwrap_or_default().trim();
    Ok((name.trim().to_owned(), value.parse().map_err(|_| bad())?))
}

fn kernel(head: &str, line: usize) -> Result<Kernel, String> {
    let rest = head.trim_start().strip_prefix("extern \"C\" __global__ void ");
    let rest = rest.ok_or("a kernel begins `extern \"C\" __global__ void`")?;
    let rest = match rest.strip_prefix("__launch_bounds__(") {
        Some(bounds) => bounds.split_once(") ").ok_or("a bound of the launch without an end")?.1,
        None => rest,
    };
    let (name, rest) = rest.split_once('(').ok_or("a kernel without parameters")?;
    let (inside, _) = rest.rsplit_once(')').ok_or("a list of parameters without an end")?;
    let parameters = inside.split(',').map(parameter).collect::<Result<_, _>>()?;
    Ok(Kernel { name: name.trim().to_owned(), line, parameters })
}

fn parameter(text: &str) -> Result<Parameter, String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let bad = || {
        format!(
            "parameter `{text}`: pointers are [const|inout] {}, numbers {}",
            POINTED.join("*, ") + "*",
            SCALARS.map(|(cuda, _)| cuda).join(", "),
        )
    };
    let (kind, name) = text.rsplit_once(' ').ok_or_else(bad)?;
    let kind = match kind.strip_suffix('*') {
        None => {
            ParameterKind::Scalar(SCALARS.iter().find(|(cuda, _)| *cuda == kind).ok_or_else(bad)?.1)
        }
        Some(to) => {
            let known = |t: &str| if POINTED.contains(&t) { Ok(t.to_owned()) } else { Err(bad()) };
            match (to.strip_prefix("const "), to.strip_prefix("inout ")) {
                (Some(t), _) => ParameterKind::In(known(t)?),
                (_, Some(t)) => ParameterKind::InOut(known(t)?),
                _ => ParameterKind::Out(known(to)?),
            }
        }
    };
    Ok(Parameter { name: name.to_owned(), kind })
}
