//! What NVIDIA's disassembler writes of a file of kernels, as instructions.

/// A kernel's machine code, and what it takes.
pub struct Code {
    pub kernel: String,
    pub registers: usize,
    /// Bytes of a thread's own memory.
    pub stack: usize,
    /// Bytes of shared memory a block takes.
    pub shared: usize,
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Its address in the kernel.
    pub at: usize,
    /// Whether only threads run it for which a predicate holds.
    pub guarded: bool,
    /// `LDG.E.128`.
    pub opcode: String,
    operands: String,
}

/// Which memory an instruction moves numbers to or from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Of all blocks; what may be shared instead counts too.
    Load,
    Store,
    /// A thread's own: what registers have no room for, and arrays indexed at run time.
    Local,
}

impl Instruction {
    /// A line such as `/*0250*/ @!P0 LDG.E.128 R4, desc[UR6][R2.64] ;`.
    pub fn parse(line: &str) -> Option<Instruction> {
        let (at, rest) = line.trim().strip_prefix("/*")?.split_once("*/")?;
        let at = usize::from_str_radix(at, 16).ok()?;
        let text = rest.split_once(';')?.0.trim();
        let (guarded, text) = match text.strip_prefix('@') {
            Some(text) => (true, text.split_once(' ')?.1.trim()),
            None => (false, text),
        };
        let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
        Some(Instruction { at, guarded, opcode: opcode.into(), operands: operands.into() })
    }

    /// `LDG`.
    pub fn name(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    fn says(&self, word: &str) -> bool {
        self.opcode.split('.').any(|part| part == word)
    }

    /// Where a branch goes.
    pub fn target(&self) -> Option<usize> {
        let goes = ["BRA", "JMP"].contains(&self.name()) || self.opcode == "WARPSYNC.COLLECTIVE";
        let last = self.operands.rsplit([' ', ',']).next()?;
        let at = last.strip_prefix("0x").filter(|_| goes)?;
        usize::from_str_radix(at, 16).ok()
    }

    /// Whether no thread that runs it goes on with the next. A branch that has a condition, as
    /// `BRA.DIV UR4, 0x40`, may not be taken.
    pub fn leaves(&self) -> bool {
        match self.name() {
            "BRA" | "JMP" => !self.guarded && !self.operands.contains(','),
            name => !self.guarded && ["EXIT", "RET", "BRX"].contains(&name),
        }
    }

    /// Whether a thread may end here.
    pub fn is_exit(&self) -> bool {
        self.name() == "EXIT"
    }

    /// The memory it is of, and the bytes it moves.
    pub fn memory(&self) -> Option<(Memory, usize)> {
        let memory = match self.name() {
            "LDG" | "LD" | "LDGSTS" => Memory::Load,
            "STG" | "ST" => Memory::Store,
            "LDL" | "STL" => Memory::Local,
            _ => return None,
        };
        let bytes = match () {
            () if self.says("128") => 16,
            () if self.says("64") => 8,
            () if self.says("U16") || self.says("S16") => 2,
            () if self.says("U8") || self.says("S8") => 1,
            () => 4,
        };
        Some((memory, bytes))
    }

    /// Whether it begins a division that the hardware does not have.
    pub fn is_division(&self) -> bool {
        self.is_call() || self.is_integer_division()
    }

    /// Of integers in place, by a rounded-up reciprocal.
    pub fn is_integer_division(&self) -> bool {
        self.name() == "I2F" && self.says("RP")
    }

    /// Of integers of 64 bits, or of the rare operands of a division or root in floating point.
    pub fn is_call(&self) -> bool {
        self.name() == "CALL"
    }
}

/// The kernels of a file from what `cuobjdump -sass -res-usage` says of its image.
pub fn parse(listing: &str) -> Vec<Code> {
    let mut all: Vec<Code> = Vec::new();
    let mut lines = listing.lines();
    let mut current = 0;
    while let Some(line) = lines.next() {
        let line = line.trim();
        // First what all kernels take, then the code of each.
        if let Some(kernel) = line.strip_prefix("Function : ") {
            current = all.iter().position(|code| code.kernel == kernel).expect("what it takes");
        } else if let Some(kernel) = line.strip_prefix("Function ") {
            let usage = lines.next().unwrap_or_default();
            let number = |name: &str| {
                let word = usage.split_whitespace().find_map(|word| word.strip_prefix(name));
                word.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name} in {usage}"))
            };
            all.push(Code {
                kernel: kernel.trim_end_matches(':').into(),
                registers: number("REG:"),
                stack: number("STACK:"),
                shared: number("SHARED:"),
                instructions: Vec::new(),
            });
        } else if let Some(instruction) = Instruction::parse(line) {
            all[current].instructions.push(instruction);
        }
    }
    all
}

#[test]
fn a_listing_is_read() {
    let listing = "\
Resource usage:
 Common:
  GLOBAL:0
 Function copy:
  REG:18 STACK:8 SHARED:1040 LOCAL:0 CONSTANT[0]:560

\tcode for sm_90a
\t\tFunction : copy
\t.headerflags\t@\"EF_CUDA_SM90\"
        /*0000*/                   LDC R1, c[0x0][0x28] ;        /* 0x00000a00ff017b82 */
                                                                 /* 0x000e620000000800 */
        /*0010*/              @!P0 LDG.E.U16 R2, desc[UR4][R2.64] ;
        /*0020*/                   CALL.REL.NOINC 0x80 ;
        /*0030*/               @P1 BRA 0x10 ;
        /*0040*/                   EXIT ;";
    let [code] = &parse(listing)[..] else { panic!("one kernel") };
    assert_eq!((&*code.kernel, code.registers, code.stack, code.shared), ("copy", 18, 8, 1040));
    let [ldc, load, call, branch, exit] = &code.instructions[..] else { panic!("five") };
    assert!(load.guarded && load.memory().is_some_and(|m| m == (Memory::Load, 2)));
    assert!(call.is_division() && !ldc.is_division());
    assert_eq!((branch.at, branch.target(), branch.leaves()), (0x30, Some(0x10), false));
    assert!(exit.leaves() && exit.is_exit() && ldc.memory().is_none());
}
