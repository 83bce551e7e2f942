//! What can be seen in the object without loading it: no panics, and how deep the stack gets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, HashSet};

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

#[test]
fn stacks_keep_to_their_budgets() {
    let mut object = Object::parse(seta_loader::OBJECT).unwrap();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).unwrap();
    for (name, program) in &object.programs {
        let instructions = &object.functions[&program.function_key()].instructions;
        let depth = Chains {
            instructions,
            known: BTreeMap::new(),
        }
        .deepest(0);
        println!("{name}: stack {depth}");
        let budget = budget(name, "stack_bytes");
        assert!(
            depth <= budget,
            "{name}: {depth} bytes of stack, more than {budget}"
        );
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
    known: BTreeMap<usize, i32>,
}

impl Chains<'_> {
    /// Bytes of stack of the function that begins at an instruction and of what it calls, the deepest way.
    fn deepest(&mut self, start: usize) -> i32 {
        if let Some(depth) = self.known.get(&start) {
            return *depth;
        }
        let mut starts: Vec<usize> = self.calls().map(|(_, target)| target).collect();
        starts.sort_unstable();
        let end = starts
            .into_iter()
            .find(|other| *other > start)
            .unwrap_or(self.instructions.len());
        let own = frame(&self.instructions[start..end]);
        let targets: Vec<usize> = self
            .calls()
            .filter(|(at, _)| (start..end).contains(at))
            .map(|(_, target)| target)
            .collect();
        let below = targets
            .into_iter()
            .map(|target| self.deepest(target))
            .max()
            .unwrap_or(0);
        self.known.insert(start, own + below);
        own + below
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
