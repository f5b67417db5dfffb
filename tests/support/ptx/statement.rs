//! One instruction, one statement.
//!
//! The types of a function's parameters convert integers as PTX does (a wider register is cut, a
//! narrower value is extended by its sign if it has one). What goes between a register of numbers
//! and one of bits keeps its bits; what goes between others does not compile.

use std::collections::HashMap;

use super::read::{Instruction, Kernel, Operand, Variable};

type Text = Result<String, String>;

/// What the names in a kernel stand for.
pub struct Scope<'a> {
    /// Classes of registers.
    registers: HashMap<&'a str, &'a str>,
    /// Slots of parameters.
    parameters: HashMap<&'a str, usize>,
    /// Addresses of variables.
    variables: HashMap<&'a str, String>,
}

impl<'a> Scope<'a> {
    /// That of a kernel with shared and local variables.
    pub fn new(kernel: &'a Kernel, [shared, local]: [&[&'a Variable]; 2]) -> Scope<'a> {
        let names = |set: &'a super::read::Registers| {
            set.names.iter().map(|name| (name.as_str(), set.class.as_str()))
        };
        let parameters = kernel.parameters.iter().enumerate();
        let place = |begin: &'static str, variables: &[&'a Variable]| {
            let at = super::offsets(variables).into_iter().zip(variables.to_vec());
            at.map(move |(at, v)| (v.name.as_str(), format!("{begin} + {at}"))).collect::<Vec<_>>()
        };
        let variables = place("SHARED_BEGIN", shared).into_iter().chain(place("0", local));
        Scope {
            registers: kernel.registers.iter().flat_map(names).collect(),
            parameters: parameters.map(|(i, name)| (name.as_str(), i)).collect(),
            variables: variables.collect(),
        }
    }

    /// The statement of an instruction.
    pub fn statement(&self, line: usize, instruction: &Instruction) -> Text {
        let statement = self.unguarded(line, instruction);
        let statement = statement.map_err(|e| format!("{}: {e}", instruction.opcode))?;
        Ok(match &instruction.guard {
            Some((register, is_false)) => {
                format!("if ({}{register}) {{ {statement} }}", if *is_false { "!" } else { "" })
            }
            None => statement,
        })
    }

    fn unguarded(&self, line: usize, Instruction { opcode, operands, .. }: &Instruction) -> Text {
        let function = opcode.replace('.', "_");
        let parts: Vec<&str> = opcode.split('.').collect();
        match (&parts[..], &operands[..]) {
            (["bra"] | ["bra", "uni"], [Operand::Name(label)]) => {
                Ok(format!("goto {};", label.replace('$', "")))
            }
            (["ret"], []) => Ok("return;".to_owned()),
            (["bar", "sync"] | ["bar", "warp", "sync"], [which]) => {
                Ok(format!("{function}({}, AT({line}));", self.source("u32", which)?))
            }
            (["ld", "param", class], [to, Operand::Address(name, 0)]) => {
                let Operand::Name(name) = &**name else { return Err("no parameter".into()) };
                let slot = self.parameters.get(name.as_str()).ok_or("no parameter")?;
                self.target(to, class, &format!("simt::argument<{class}>(slots[{slot}])"))
            }
            (["ld", place @ ..], [to, from]) => self.load(place, to, from, line),
            (["st", place @ ..], [to, from]) => self.store(place, to, from, line),
            (["atom", "shared", "add", "u32"], [to, from, more]) => {
                let at = format!("within(block, {}, 4, AT({line}))", self.address(from)?);
                let more = self.source("u32", more)?;
                self.target(to, "u32", &format!("atom_add_u32({at}, {more})"))
            }
            (["shfl", "sync", _, "b32"], [to, numbers @ ..]) => {
                self.shuffle(&function, to, numbers, line)
            }
            (["mov", "b32"], [to, Operand::Group(parts)]) => {
                self.target(to, "b32", &format!("pack_b32({})", self.sources(&["b16"; 2], parts)?))
            }
            (["mov", "b32"], [Operand::Group(parts), from]) => {
                let from = self.source("b32", from)?;
                let part = |(i, to)| self.target(to, "b16", &format!("unpack_b32({from}, {i})"));
                parts.iter().enumerate().map(part).collect()
            }
            (["mma", .., d, a, b, c], [to, x, y, sum]) if d == c => {
                let product = [("c", *c, sum), ("a", *a, x), ("b", *b, y)];
                self.matrices(&format!("{function}(c, a, b, AT({line}));"), &product, ("c", d, to))
            }
            (["ldmatrix", .., "shared", "b16"], [to, from]) => {
                let Operand::Group(all) = to else { return Err("one matrix".into()) };
                let row = self.address(from)?;
                let call =
                    format!("b32 x[{}]; {function}(x, block, {row}, AT({line}));", all.len());
                self.matrices(&call, &[], ("x", "b32", to))
            }
            (["cp", "async", "cg", "shared", "global"], [to, from, numbers @ ..])
                if numbers.len() == 2 =>
            {
                let [to, from] = [self.address(to)?, self.address(from)?];
                let numbers = self.sources(&["u32"; 2], numbers)?;
                Ok(format!("{function}(block, {to}, {from}, {numbers}, AT({line}));"))
            }
            (["cp", "async", "commit_group"], []) => Ok("simt::commit();".to_owned()),
            (["cp", "async", "wait_group"], [Operand::Integer(n)]) => {
                Ok(format!("{function}({n});"))
            }
            (_, [to, sources @ ..]) => {
                let (target, classes) = classes(&parts).ok_or("not known")?;
                let sources = self.sources(&classes, sources)?;
                self.target(to, target, &format!("{function}({sources})"))
            }
            _ => Err("not known".into()),
        }
    }

    /// `shfl.sync`, whose second result says whether the lane that was read is in range.
    fn shuffle(&self, function: &str, to: &Operand, numbers: &[Operand], line: usize) -> Text {
        let (to, is_in) = match to {
            Operand::Group(two) if two.len() == 2 => (&two[0], Some(&two[1])),
            one => (one, None),
        };
        let numbers = self.sources(&["u32"; 4], numbers)?;
        let got = self.target(to, "u32", &format!("{function}({numbers}, in, AT({line}))"))?;
        let is_in = is_in.map_or(Ok(String::new()), |p| self.target(p, "pred", "in"))?;
        Ok(format!("{{ bool in; {got} {is_in} }}"))
    }

    /// `ld`, by what follows it: a space, v2 or v4, a type.
    fn load(&self, place: &[&str], to: &Operand, from: &Operand, line: usize) -> Text {
        let (class, registers, at) = self.access(place, to, from, line)?;
        let mut statements = format!("{{ {at}");
        for (i, register) in registers.into_iter().enumerate() {
            let from = format!("load<{class}>(at + {})", i * size(class)?);
            statements += &format!(" {}", self.target(register, class, &from)?);
        }
        Ok(statements + " }")
    }

    fn store(&self, place: &[&str], to: &Operand, from: &Operand, line: usize) -> Text {
        let (class, registers, at) = self.access(place, from, to, line)?;
        let mut statements = format!("{{ {at}");
        for (i, register) in registers.into_iter().enumerate() {
            let (offset, from) = (i * size(class)?, self.source(class, register)?);
            statements += &format!(" store<{class}>(at + {offset}, {from});");
        }
        Ok(statements + " }")
    }

    /// The type of an access, its registers, and the statement that finds its place, `at`.
    fn access<'b, 'o>(
        &self,
        place: &[&'b str],
        registers: &'o Operand,
        address: &Operand,
        line: usize,
    ) -> Result<(&'b str, Vec<&'o Operand>, String), String> {
        let (space, place) = match place {
            [space @ ("global" | "shared" | "local"), rest @ ..] => (*space, rest),
            rest => ("global", rest),
        };
        let (count, class) = match place {
            ["v2", class] => (2, *class),
            ["v4", class] => (4, *class),
            [class] => (1, *class),
            _ => return Err("not known".into()),
        };
        let registers: Vec<&Operand> = match registers {
            Operand::Group(all) => all.iter().collect(),
            one => vec![one],
        };
        if registers.len() != count {
            return Err("another number of registers".into());
        }
        let (address, bytes) = (self.address(address)?, count * size(class)?);
        let at = match space {
            "global" => format!("{LAST} char* at = global(last, {address}, {bytes}, AT({line}));"),
            "shared" => format!("char* at = within(block, {address}, {bytes}, AT({line}));"),
            _ => format!("char* at = within(own, {address}, {bytes}, AT({line}));"),
        };
        Ok((class, registers, at))
    }

    /// A call that reads groups of registers as arrays and writes one back.
    fn matrices(
        &self,
        call: &str,
        from: &[(&str, &str, &Operand)],
        (result, class, to): (&str, &str, &Operand),
    ) -> Text {
        let mut statements = "{".to_owned();
        for &(name, class, registers) in from {
            let all = group(registers)?;
            // Numbers of sixteen bits lie two in a register.
            let class = if matches!(class, "bf16" | "f16") { "b32" } else { class };
            let values = self.sources(&vec![class; all.len()], all)?;
            statements += &format!(" {class} {name}[{}] = {{{values}}};", all.len());
        }
        statements += &format!(" {call}");
        for (i, register) in group(to)?.iter().enumerate() {
            statements += &format!(" {}", self.target(register, class, &format!("{result}[{i}]"))?);
        }
        Ok(statements + " }")
    }

    fn address(&self, operand: &Operand) -> Text {
        let Operand::Address(base, offset) = operand else { return Err("no address".into()) };
        match &**base {
            Operand::Register(name) => Ok(format!("{name} + {offset}")),
            Operand::Name(name) => {
                let at = self.variables.get(name.as_str()).ok_or("no variable")?;
                Ok(format!("{at} + {offset}"))
            }
            other => Err(format!("the address {other:?}")),
        }
    }

    /// `register = value;`, a value of some class.
    fn target(&self, operand: &Operand, class: &str, value: &str) -> Text {
        let Operand::Register(name) = operand else { return Err("no register".into()) };
        let own = *self.registers.get(name.as_str()).ok_or("no register")?;
        Ok(format!("{name} = {};", converted(class, own, value)?))
    }

    fn sources(&self, classes: &[&str], operands: &[Operand]) -> Text {
        if classes.len() != operands.len() {
            return Err("another number of operands".into());
        }
        let each = classes.iter().zip(operands).map(|(class, o)| self.source(class, o));
        Ok(each.collect::<Result<Vec<_>, _>>()?.join(", "))
    }

    /// An operand where a class is asked for.
    fn source(&self, class: &str, operand: &Operand) -> Text {
        const SPECIAL: [&str; 4] = ["vtid.", "vntid.", "vctaid.", "vnctaid."];
        match operand {
            Operand::Register(name) if SPECIAL.iter().any(|known| name.starts_with(known)) => {
                Ok(name.clone())
            }
            Operand::Register(name) => {
                let own = *self.registers.get(name.as_str()).ok_or("no register")?;
                converted(own, class, name)
            }
            Operand::Integer(_) if matches!(class, "f32" | "f64") => Err("an integer".into()),
            Operand::Integer(n) if class == "pred" => Ok(format!("{}", *n != 0)),
            Operand::Integer(n) if i32::try_from(*n).is_ok() => Ok(n.to_string()),
            Operand::Integer(n) => Ok(format!("{:#x}ull", *n as u64)),
            Operand::Float(x) if class == "f32" && x.is_finite() => Ok(format!("{x:e}f")),
            Operand::Float(x) => converted("f32", class, &format!("as<f32>({}u)", x.to_bits())),
            Operand::Double(x) if class == "f64" && x.is_finite() => Ok(format!("{x:e}")),
            Operand::Double(x) => converted("f64", class, &format!("as<f64>({}ull)", x.to_bits())),
            Operand::Name(name) => {
                Ok(self.variables.get(name.as_str()).ok_or("no variable")?.clone())
            }
            other => Err(format!("the operand {other:?}")),
        }
    }
}

fn group(operand: &Operand) -> Result<&[Operand], String> {
    match operand {
        Operand::Group(all) => Ok(all),
        other => Err(format!("the operand {other:?}")),
    }
}

/// The array that this instruction met last.
const LAST: &str = "static const memory::Array* last = &memory::NONE;";

/// A value of one class where another is asked for.
fn converted(from: &str, to: &str, value: &str) -> Text {
    let is_number = |class| matches!(class, "f32" | "f64");
    match (from == "pred", to == "pred") {
        (true, true) => Ok(value.to_owned()),
        (false, false) if from != to && (is_number(from) || is_number(to)) => {
            Ok(format!("as<{to}>({value})"))
        }
        (false, false) => Ok(value.to_owned()),
        _ => Err(format!("a register of {from} for one of {to}")),
    }
}

/// The class of what an instruction gives, and those of what it takes.
fn classes<'a>(parts: &[&'a str]) -> Option<(&'a str, Vec<&'a str>)> {
    let class = *parts.last()?;
    Some(match parts {
        ["mul", "wide", "s32"] => ("s64", vec![class; 2]),
        ["mul", "wide", "u32"] => ("u64", vec![class; 2]),
        ["cvt", .., "bf16x2", "f32"] => ("b32", vec!["f32"; 2]),
        ["cvt", .., to, from] => {
            let bits = |class: &'a str| if matches!(class, "bf16" | "f16") { "b16" } else { class };
            (bits(to), vec![bits(from)])
        }
        ["setp", ..] => ("pred", vec![class; 2]),
        ["selp", ..] => (class, vec![class, class, "pred"]),
        ["shl" | "shr", ..] => (class, vec![class, "u32"]),
        ["bfi", ..] => (class, vec![class, class, "u32", "u32"]),
        ["mov" | "neg" | "abs" | "not" | "sqrt" | "rcp" | "ex2" | "cvta", ..] => {
            (class, vec![class])
        }
        ["mad" | "fma", ..] => (class, vec![class; 3]),
        ["add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor", ..] => {
            (class, vec![class; 2])
        }
        _ => return None,
    })
}

/// Bytes of a class.
fn size(class: &str) -> Result<usize, String> {
    match class {
        "u8" | "s8" | "b8" => Ok(1),
        "u16" | "s16" | "b16" => Ok(2),
        "u32" | "s32" | "b32" | "f32" => Ok(4),
        "u64" | "s64" | "b64" | "f64" => Ok(8),
        other => Err(format!("the type {other}")),
    }
}
