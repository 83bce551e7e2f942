//! What can be seen in the object without loading it: no panics, and how deep the stack gets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, HashMap, HashSet};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

/// A call; its source register tells of what.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL`: of a function of the program.
const TO_FUNCTION: u8 = 1;
const BUDGETS: &str = include_str!("../../ebpf/budgets.toml");

/// A panic has no end that the verifier would accept, and stands for a check that the logic lost.
#[test]
fn no_panics_are_in_the_object() {
    let object = Object::parse(seta_loader::OBJECT).unwrap();
    let names: Vec<_> = object
        .functions
        .values()
        .map(|function| function.name.as_str())
        .collect();
    assert!(
        names.iter().any(|name| name.contains("border_")),
        "the names of functions are missing: {names:?}"
    );
    let panics: Vec<_> = names
        .iter()
        .filter(|name| name.contains("panic") || name.contains("unwrap_failed"))
        .collect();
    assert!(panics.is_empty(), "{panics:?}");
}

/// For who has to make room: what each function takes by itself.
#[test]
#[ignore = "prints: cargo nextest run -p seta-loader --test object --run-ignored all --no-capture frames"]
fn frames_of_functions() {
    let object = Object::parse(seta_loader::OBJECT).unwrap();
    for function in object.functions.values() {
        println!("{:>4} {}", frame(&function.instructions), function.name);
    }
}

#[test]
fn stacks_keep_to_their_budgets() {
    let mut object = Object::parse(seta_loader::OBJECT).unwrap();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let names: HashMap<Shape, String> = object
        .functions
        .values()
        .map(|function| (shape(&function.instructions), short(&function.name)))
        .collect();
    object.relocate_calls(&sections).unwrap();
    let mut too_deep = Vec::new();
    for (name, program) in &object.programs {
        let instructions = &object.functions[&program.function_key()].instructions;
        let deepest = Chains {
            instructions,
            names: &names,
            known: BTreeMap::new(),
        }
        .deepest(0);
        println!("{name}: stack {}: {}", deepest.bytes, deepest.chain.join(" > "));
        let budget = budget(name, "stack_bytes");
        if deepest.bytes > budget {
            too_deep.push(format!(
                "{name}: {} bytes of stack, more than {budget}",
                deepest.bytes
            ));
        }
    }
    assert!(too_deep.is_empty(), "{too_deep:?}");
}

/// What stays the same of a function when it becomes a part of a program.
type Shape = Vec<(u8, i16)>;

fn shape(instructions: &[bpf_insn]) -> Shape {
    instructions
        .iter()
        .map(|instruction| (instruction.code, instruction.off))
        .collect()
}

/// Crate, module and name out of a mangled name, as far as its letters tell.
fn short(mangled: &str) -> String {
    let words = mangled.split(|letter: char| !(letter.is_ascii_lowercase() || letter == '_'));
    let path: Vec<_> = words
        .map(|word| word.trim_matches('_'))
        .filter(|word| word.len() > 1)
        .skip_while(|word| !matches!(*word, "seta_stages" | "seta_packet" | "seta_ebpf"))
        .take(3)
        .collect();
    if path.is_empty() {
        mangled.to_owned()
    } else {
        path.join("::")
    }
}

/// A number of a program's section.
fn budget(program: &str, key: &str) -> i32 {
    let header = format!("[{program}]");
    let mut section = BUDGETS
        .lines()
        .skip_while(|line| **line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    let line = section
        .find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='))
        .unwrap();
    line.trim().parse().unwrap()
}

/// The functions of a program, one behind the other, the entry first.
struct Chains<'a> {
    instructions: &'a [bpf_insn],
    names: &'a HashMap<Shape, String>,
    known: BTreeMap<usize, Deepest>,
}

/// The deepest chain of calls from a function on.
#[derive(Clone, Default)]
struct Deepest {
    bytes: i32,
    /// Names, each with the bytes of its frame.
    chain: Vec<String>,
}

impl Chains<'_> {
    /// Bytes of stack of the function that begins at an instruction and of what it calls, the deepest way.
    fn deepest(&mut self, start: usize) -> Deepest {
        if let Some(deepest) = self.known.get(&start) {
            return deepest.clone();
        }
        let starts = self.calls().map(|(_, target)| target);
        let end = starts
            .filter(|other| *other > start)
            .min()
            .unwrap_or(self.instructions.len());
        let function = &self.instructions[start..end];
        let own = frame(function);
        let targets: Vec<usize> = self
            .calls()
            .filter(|(at, _)| (start..end).contains(at))
            .map(|(_, target)| target)
            .collect();
        let mut deepest = Deepest::default();
        for target in targets {
            let below = self.deepest(target);
            if below.bytes > deepest.bytes {
                deepest = below;
            }
        }
        let name = self.names.get(&shape(function)).map_or("?", String::as_str);
        deepest.bytes += own;
        deepest.chain.insert(0, format!("{name} {own}"));
        self.known.insert(start, deepest.clone());
        deepest
    }

    /// Every call between functions, and where it goes.
    fn calls(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.instructions.len())
            .filter(|at| {
                self.instructions[*at].code == CALL && self.instructions[*at].src_reg() == TO_FUNCTION
            })
            .map(|at| (at, self.target(at)))
    }

    fn target(&self, at: usize) -> usize {
        let next = i64::try_from(at).unwrap() + 1;
        usize::try_from(next + i64::from(self.instructions[at].imm)).unwrap()
    }
}

/// Bytes that a function touches below its frame pointer, as the verifier counts them: in steps of 16 where programs are
/// compiled to machine code (`round_up_stack_depth` in `kernel/bpf/verifier.c`).
fn frame(instructions: &[bpf_insn]) -> i32 {
    const FRAME_POINTER: u8 = 10;
    const MOVE: u8 = 0xbf;
    const ADD: u8 = 0x07;
    let mut deepest = 0;
    // Registers that hold the frame pointer, plus something.
    let mut offsets: BTreeMap<u8, i32> = BTreeMap::from([(FRAME_POINTER, 0)]);
    for instruction in instructions {
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        match (instruction.code, instruction.code & 0x07) {
            (MOVE, _) => match offsets.get(&from).copied() {
                Some(offset) => drop(offsets.insert(to, offset)),
                None => drop(offsets.remove(&to)),
            },
            (ADD, _) => {
                if let Some(offset) = offsets.get_mut(&to) {
                    *offset += instruction.imm;
                    deepest = deepest.min(*offset);
                }
            }
            // Load into a register that then holds something else.
            (_, 0x00 | 0x01) => {
                if let Some(offset) = offsets.get(&from) {
                    deepest = deepest.min(*offset + i32::from(instruction.off));
                }
                offsets.remove(&to);
            }
            // Store.
            (_, 0x02 | 0x03) => {
                if let Some(offset) = offsets.get(&to) {
                    deepest = deepest.min(*offset + i32::from(instruction.off));
                }
            }
            // Arithmetic.
            (_, 0x04 | 0x07) => drop(offsets.remove(&to)),
            _ => {}
        }
    }
    (-deepest + 15).max(16) & !15
}
