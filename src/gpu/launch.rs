//! What a launch is made of: the kernels' files, arrays on the device, arguments, grids.
//!
//! Kernels are started through the structs of [`super::kernels`], which `build.rs` writes from
//! their signatures; a wrong name or kind of argument does not compile. What an array holds is
//! checked here.

use std::fmt::{self, Display};
use std::marker::PhantomData;

use crate::base::{DType, Error, Remedy, or_unwind};

/// A file of kernels, and what was compiled of it.
pub struct File {
    /// `norm`.
    pub name: &'static str,
    /// The source.
    pub text: &'static str,
    /// The pairs of types it is compiled for, `elem` and `weight`; the second may be empty.
    pub variants: &'static [(&'static str, &'static str)],
    /// Names of its kernels.
    pub kernels: &'static [&'static str],
    /// By types and by card.
    pub images: &'static [Image],
    /// What all files may include: name and text.
    pub headers: &'static [(&'static str, &'static str)],
}

/// A file compiled for some types and some card.
pub struct Image {
    /// What `elem` stands for.
    pub elem: &'static str,
    /// What `weight` stands for; empty where it does not occur.
    pub weight: &'static str,
    /// `compute_80` for PTX, else a cubin's `sm_80`.
    pub arch: &'static str,
    /// The image.
    pub bytes: &'static [u8],
}

/// The type of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Elem {
    F32,
    BF16,
    F16,
    F64,
    I32,
    U8,
}

impl Elem {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Elem::F64 => 8,
            Elem::F32 | Elem::I32 => 4,
            Elem::BF16 | Elem::F16 => 2,
            Elem::U8 => 1,
        }
    }

    /// The type of a name in kernels' headers.
    ///
    /// # Panics
    ///
    /// Where none has it.
    pub fn named(name: &str) -> Elem {
        let all = [Elem::F32, Elem::BF16, Elem::F16, Elem::F64, Elem::I32, Elem::U8];
        all.into_iter().find(|elem| elem.name() == name).expect("the name of a type")
    }

    /// As kernels' headers write it.
    pub fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::BF16 => "bf16",
            Elem::F16 => "f16",
            Elem::F64 => "f64",
            Elem::I32 => "i32",
            Elem::U8 => "u8",
        }
    }
}

impl From<&DType> for Elem {
    fn from(dtype: &DType) -> Elem {
        match dtype {
            DType::F32 => Elem::F32,
            DType::F16 => Elem::F16,
            DType::BF16 => Elem::BF16,
        }
    }
}

/// Some elements in a device's memory.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSlice {
    /// The device's address.
    pub at: u64,
    /// How many elements.
    pub len: usize,
    /// Of which type.
    pub elem: Elem,
}

impl DeviceSlice {
    /// `n` elements from the `from`-th on.
    pub fn part(self, from: usize, n: usize) -> DeviceSlice {
        assert!(from + n <= self.len, "a part of {n} from {from} of {} elements", self.len);
        DeviceSlice { at: self.at + (from * self.elem.size()) as u64, len: n, ..self }
    }
}

macro_rules! pointers {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        pub struct $name<'a>(DeviceSlice, PhantomData<&'a ()>);

        impl $name<'_> {
            /// The argument of a parameter that points at `to`.
            pub fn argument(self, name: &'static str, to: &'static str) -> Argument {
                Argument::Pointer { name, to, slice: self.0 }
            }
        }

        impl From<DeviceSlice> for $name<'_> {
            fn from(slice: DeviceSlice) -> Self {
                $name(slice, PhantomData)
            }
        }
    )+};
}
pointers! {
    /// An array that a kernel reads.
    In
    /// An array that a kernel writes, all of it.
    Out
    /// An array that a kernel reads and writes.
    InOut
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, non_camel_case_types, reason = "the names are types'")]
pub enum Argument {
    Pointer { name: &'static str, to: &'static str, slice: DeviceSlice },
    i32(i32),
    i64(i64),
    f32(f32),
}

impl Argument {
    /// In eight bytes.
    pub fn slot(self) -> u64 {
        match self {
            Argument::Pointer { slice, .. } => slice.at,
            Argument::i32(x) => u64::from(x as u32),
            Argument::i64(x) => x as u64,
            Argument::f32(x) => u64::from(x.to_bits()),
        }
    }
}

/// How many blocks, and threads in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: [u32; 3],
}

/// A number as a kernel takes it.
///
/// Kernels count rows and columns in 32 bits; a size beyond unwinds as an error that says so.
pub fn int<N: Copy + Display + TryInto<i32>>(n: N) -> i32 {
    let fits = n.try_into().ok();
    or_unwind(fits.ok_or_else(|| {
        let what = format!("a size of {n} is more than a kernel counts (2³¹ − 1)");
        let less = "take less at once (fewer facts, layers or tokens), or compute on the CPU";
        Error::device(what, Remedy::from(less).option("device", Some("cpu")))
    }))
}

impl Grid {
    /// Blocks along each axis, and threads along one.
    pub fn of(blocks: [usize; 3], threads: usize) -> Grid {
        let threads = [int(threads) as u32, 1, 1];
        Grid { blocks: blocks.map(|n| int(n) as u32), threads }
    }

    /// Blocks and threads along one axis.
    pub fn line(blocks: usize, threads: usize) -> Grid {
        Grid::of([blocks, 1, 1], threads)
    }

    /// A thread an element, of `n`.
    pub fn each(n: usize, threads: usize) -> Grid {
        Grid::line(n.div_ceil(threads), threads)
    }

    /// Panics where a card would refuse it.
    pub fn check(self, kernel: &str) {
        let Grid { blocks: [x, y, z], threads: [i, j, k] } = self;
        let threads = u64::from(i) * u64::from(j) * u64::from(k);
        let blocks = x <= i32::MAX as u32 && y <= 65_535 && z <= 65_535;
        assert!(
            blocks && (1..=1024).contains(&threads) && k <= 64,
            "{kernel}: no card takes the launch {self:?}"
        );
    }

    /// Whether there is nothing to do.
    pub fn is_empty(self) -> bool {
        self.blocks.contains(&0)
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} blocks of {:?} threads", self.blocks, self.threads)
    }
}

/// A launch in words: `norm_fwd (norm.cu) for bf16, [4, 1, 1] blocks of [128, 1, 1] threads`.
pub(super) fn launched(file: &str, kernel: &str, (e, w): (&str, &str), grid: Grid) -> String {
    let weight = if w.is_empty() { String::new() } else { format!(" and {w}") };
    format!("{kernel} ({file}.cu) for {e}{weight}, {grid}")
}

/// The types that `elem` and `weight` stand for in a launch; where a kernel has no parameter of
/// them, the file's first.
///
/// # Panics
///
/// Where an argument's elements are of another type than its parameter's, two parameters of type
/// `elem` got two types, or the file is not compiled for a type.
pub fn types(file: &File, kernel: &str, arguments: &[Argument]) -> (&'static str, &'static str) {
    let mut elem = "";
    let mut weight = "";
    for argument in arguments {
        let Argument::Pointer { name, to, slice } = argument else { continue };
        let is = slice.elem.name();
        let wanted = match *to {
            "elem" => &mut elem,
            "weight" => &mut weight,
            "float" => &mut "f32",
            "double" => &mut "f64",
            "int" => &mut "i32",
            _ => &mut "u8",
        };
        if wanted.is_empty() {
            *wanted = is;
        }
        assert_eq!(*wanted, is, "{kernel}: `{name}` is of another type");
    }
    let has_types = |(e, w): &&(&str, &str)| {
        (elem.is_empty() || elem == *e) && (weight.is_empty() || weight == *w)
    };
    let found = file.variants.iter().find(has_types);
    *found.unwrap_or_else(|| panic!("{kernel} is not compiled for {elem} {weight}"))
}
