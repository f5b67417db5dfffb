//! PTX as NVRTC writes it, read line by line.

/// A file of PTX.
#[derive(Default)]
pub struct Module {
    /// Shared memory that several kernels may name.
    pub shared: Vec<Variable>,
    pub kernels: Vec<Kernel>,
}

/// `.shared .align 16 .b8 memory[1536];`
pub struct Variable {
    pub name: String,
    pub align: usize,
    pub bytes: usize,
}

/// `.visible .entry`.
pub struct Kernel {
    pub name: String,
    /// Names, in order.
    pub parameters: Vec<String>,
    pub max_threads: usize,
    pub registers: Vec<Registers>,
    pub shared: Vec<Variable>,
    pub local: Vec<Variable>,
    /// With the numbers of their lines.
    pub body: Vec<(usize, Body)>,
}

/// `.reg .b32 %r<13>;`
pub struct Registers {
    pub line: usize,
    /// `b32`.
    pub class: String,
    /// Variables for `r1` to `r12`.
    pub names: Vec<String>,
}

/// What follows the declarations.
pub enum Body {
    Label(String),
    Instruction(Instruction),
}

/// `@!%p1 add.s32 %r3, %r2, 1;`
pub struct Instruction {
    /// A register's variable, and whether it must be false.
    pub guard: Option<(String, bool)>,
    /// `add.s32`.
    pub opcode: String,
    pub operands: Vec<Operand>,
}

/// What an instruction is given.
#[derive(Debug)]
pub enum Operand {
    /// The variable of `%r1`; also `%tid.x`.
    Register(String),
    /// `{%f1, %f2}`, or `%r1|%p1`.
    Group(Vec<Operand>),
    /// `[%rd1+4]`.
    Address(Box<Operand>, i64),
    Integer(i64),
    Float(f32),
    Double(f64),
    /// A label, a parameter, a variable; as it is written.
    Name(String),
}

impl Kernel {
    /// Whether an instruction names a variable.
    pub fn names(&self, variable: &str) -> bool {
        fn names(operand: &Operand, variable: &str) -> bool {
            match operand {
                Operand::Name(name) => name == variable,
                Operand::Address(base, _) => names(base, variable),
                Operand::Group(all) => all.iter().any(|o| names(o, variable)),
                _ => false,
            }
        }
        self.body.iter().any(|(_, body)| match body {
            Body::Instruction(i) => i.operands.iter().any(|o| names(o, variable)),
            Body::Label(_) => false,
        })
    }
}

/// Reads a file; an error begins with the number of its line.
pub fn module(text: &str) -> Result<Module, String> {
    let mut module = Module::default();
    let code = |line| str::split(line, "//").next().unwrap_or_default().trim();
    let lines = text.trim_end_matches('\0').lines().map(code).enumerate();
    let mut lines = lines.map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.is_empty());
    while let Some((n, line)) = lines.next() {
        let bad = || format!("{n}: not known: {line}");
        if let Some(rest) = line.strip_prefix(".visible .entry ") {
            let name = rest.strip_suffix("(").or(rest.strip_suffix("()")).ok_or_else(bad)?;
            module.kernels.push(kernel(name, line.ends_with("()"), &mut lines)?);
        } else if line.starts_with(".shared ") {
            module.shared.push(variable(line).ok_or_else(bad)?);
        } else if ![".version ", ".target ", ".address_size ", ".global "]
            .iter()
            .any(|known| line.starts_with(known))
        {
            return Err(bad());
        }
    }
    Ok(module)
}

fn kernel<'a>(
    name: &str,
    mut headed: bool,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Result<Kernel, String> {
    let mut kernel = Kernel {
        name: name.to_owned(),
        parameters: Vec::new(),
        max_threads: 1024,
        registers: Vec::new(),
        shared: Vec::new(),
        local: Vec::new(),
        body: Vec::new(),
    };
    let mut inside = false;
    for (n, line) in lines {
        let bad = || format!("{n}: not known: {line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words[0], headed, inside) {
            (".param", false, _) => {
                let name = words.get(2).ok_or_else(bad)?;
                kernel.parameters.push(name.trim_end_matches(',').to_owned());
            }
            (")", false, _) => headed = true,
            (".maxntid", true, false) => {
                let sizes = line[".maxntid".len()..].split(',').map(|x| x.trim().parse::<usize>());
                kernel.max_threads = sizes.product::<Result<_, _>>().map_err(|_| bad())?;
            }
            (".minnctapersm", true, false) => {}
            ("{", true, false) => inside = true,
            ("}", true, true) => return Ok(kernel),
            (".reg", _, true) => kernel.registers.push(registers(n, &words).ok_or_else(bad)?),
            (".shared", _, true) => kernel.shared.push(variable(line).ok_or_else(bad)?),
            (".local", _, true) => kernel.local.push(variable(line).ok_or_else(bad)?),
            (".pragma", _, true) => {}
            (_, _, true) => kernel.body.push((n, body(line).ok_or_else(bad)?)),
            _ => return Err(bad()),
        }
    }
    Err(format!("{name} does not end"))
}

/// `.shared .align 16 .b8 memory[1536];`
fn variable(line: &str) -> Option<Variable> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, ".align", align, ".b8", name] = words[..] else { return None };
    let (name, bytes) = name.strip_suffix("];")?.split_once('[')?;
    Some(Variable { name: name.to_owned(), align: align.parse().ok()?, bytes: bytes.parse().ok()? })
}

/// `v` and a register's name, which by itself may be a type's (`f32`).
fn register(text: &str) -> Option<String> {
    text.strip_prefix('%').map(|name| format!("v{name}"))
}

/// `.reg .b32 %r<13>;` or `.reg .b64 %SP;`
fn registers(line: usize, words: &[&str]) -> Option<Registers> {
    let [_, class, name] = words[..] else { return None };
    let name = register(name.strip_suffix(';')?)?;
    let names = match name.strip_suffix('>').and_then(|name| name.split_once('<')) {
        Some((name, end)) => (1..end.parse().ok()?).map(|i: u32| format!("{name}{i}")).collect(),
        None => vec![name],
    };
    Some(Registers { line, class: class.strip_prefix('.')?.to_owned(), names })
}

fn body(line: &str) -> Option<Body> {
    if let Some(label) = line.strip_suffix(':') {
        return Some(Body::Label(label.to_owned()));
    }
    let mut rest = line.strip_suffix(';')?;
    let mut guard = None;
    if let Some(guarded) = rest.strip_prefix('@') {
        let (register, instruction) = guarded.split_once(char::is_whitespace)?;
        let is_false = register.starts_with('!');
        guard = Some((self::register(register.trim_start_matches('!'))?, is_false));
        rest = instruction.trim();
    }
    let (opcode, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let operands = operands_of(operands)?;
    Some(Body::Instruction(Instruction { guard, opcode: opcode.to_owned(), operands }))
}

/// Between the commas that no bracket holds.
fn operands_of(text: &str) -> Option<Vec<Operand>> {
    let (mut all, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                all.push(operand(text[from..at].trim())?);
                from = at + 1;
            }
            _ => {}
        }
    }
    match text[from..].trim() {
        "" => {}
        last => all.push(operand(last)?),
    }
    Some(all)
}

fn operand(text: &str) -> Option<Operand> {
    if let Some(inside) = text.strip_prefix('{') {
        return operands_of(inside.strip_suffix('}')?).map(Operand::Group);
    }
    if let Some(inside) = text.strip_prefix('[') {
        let inside = inside.strip_suffix(']')?;
        let (base, offset) = inside.split_once('+').unwrap_or((inside, "0"));
        return Some(Operand::Address(operand(base)?.into(), offset.parse().ok()?));
    }
    if let Some((first, second)) = text.split_once('|') {
        return Some(Operand::Group(vec![operand(first)?, operand(second)?]));
    }
    if let Some(register) = register(text) {
        return Some(Operand::Register(register));
    }
    if let Some(bits) = text.strip_prefix("0f") {
        return u32::from_str_radix(bits, 16).ok().map(|b| Operand::Float(f32::from_bits(b)));
    }
    if let Some(bits) = text.strip_prefix("0d") {
        return u64::from_str_radix(bits, 16).ok().map(|b| Operand::Double(f64::from_bits(b)));
    }
    match text.parse() {
        Ok(integer) => Some(Operand::Integer(integer)),
        Err(_) if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => None,
        Err(_) => Some(Operand::Name(text.to_owned())),
    }
}
