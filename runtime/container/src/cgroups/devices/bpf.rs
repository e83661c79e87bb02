//! The allow list as a BPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
//!
//! The kernel asks for a node and one or more kinds of access at once. Rules are tried from the
//! last to the first: one that matches settles the accesses it names, a denied one ends it, and
//! when none is left unsettled the answer is yes. So, other than on v1, any list can be expressed.
//!
//! Source: the kernel's `uapi/linux/bpf.h` (`struct bpf_cgroup_dev_ctx`) and `bpf/instruction-set.rst`.

use super::rules::{ALL, Rule};

/// One instruction, `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Insn {
    pub code: u8,
    /// Destination in the low four bits, source in the high four.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: dst | src << 4, offset, immediate }
}

/// `dst = *(u32 *)(src + offset)`.
const LOAD_WORD: u8 = 0x61;
/// 32-bit `dst &= immediate`.
const AND: u8 = 0x54;
/// 32-bit `dst >>= immediate`.
const SHIFT_RIGHT: u8 = 0x74;
/// 32-bit `dst = immediate`.
const MOVE: u8 = 0xb4;
/// 32-bit `dst = src`.
const COPY: u8 = 0xbc;
/// Jump if `dst == immediate`.
const JUMP_EQUAL: u8 = 0x15;
/// Jump if `dst != immediate`.
const JUMP_UNEQUAL: u8 = 0x55;
/// Return `r0`.
const EXIT: u8 = 0x95;

// Registers: r1 is the context at entry and scratch afterwards.
const ANSWER: u8 = 0;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Whether the rules let everything pass, so that no program is needed.
pub(crate) fn allows_everything(rules: &[Rule]) -> bool {
    let start = rules.iter().rposition(|rule| rule.nodes.is_none());
    start.is_some_and(|start| rules[start..].iter().all(|rule| rule.allow))
}

/// Compiles the rules.
pub(crate) fn program(rules: &[Rule]) -> Vec<Insn> {
    let mut out = vec![
        insn(LOAD_WORD, KIND, SCRATCH, 0, 0),
        insn(COPY, WANTED, KIND, 0, 0),
        insn(AND, KIND, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, WANTED, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, SCRATCH, 4, 0),
        insn(LOAD_WORD, MINOR, SCRATCH, 8, 0),
    ];
    let mut default = false;
    for rule in rules.iter().rev() {
        let Some(nodes) = rule.nodes else {
            default = rule.allow;
            break;
        };
        let mut tests = vec![(KIND, nodes.kind as i32)];
        tests.extend(nodes.major.map(|major| (MAJOR, major as i32)));
        tests.extend(nodes.minor.map(|minor| (MINOR, minor as i32)));
        let access = i32::from(rule.access);
        let verdict: &[Insn] = match (rule.allow, rule.access == ALL) {
            (allow, true) => &[insn(MOVE, ANSWER, 0, 0, i32::from(allow)), insn(EXIT, 0, 0, 0, 0)],
            (true, false) => &[
                insn(AND, WANTED, 0, 0, !access),
                insn(JUMP_UNEQUAL, WANTED, 0, 2, 0),
                insn(MOVE, ANSWER, 0, 0, 1),
                insn(EXIT, 0, 0, 0, 0),
            ],
            (false, false) => &[
                insn(COPY, SCRATCH, WANTED, 0, 0),
                insn(AND, SCRATCH, 0, 0, access),
                insn(JUMP_EQUAL, SCRATCH, 0, 2, 0),
                insn(MOVE, ANSWER, 0, 0, 0),
                insn(EXIT, 0, 0, 0, 0),
            ],
        };
        for (at, (register, value)) in tests.iter().enumerate() {
            let over = tests.len() - at - 1 + verdict.len();
            out.push(insn(JUMP_UNEQUAL, *register, 0, over as i16, *value));
        }
        out.extend_from_slice(verdict);
    }
    out.push(insn(MOVE, ANSWER, 0, 0, i32::from(default)));
    out.push(insn(EXIT, 0, 0, 0, 0));
    out
}

#[cfg(test)]
mod tests {
    use super::super::rules::{Kind, MKNOD, Nodes, READ, WRITE, parse};
    use super::*;

    /// Runs a program as the kernel would; panics on what the verifier would refuse.
    fn run(program: &[Insn], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let context = [kind as u32 | u32::from(access) << 16, major, minor];
        let mut registers: [Option<u64>; 10] = [None; 10];
        let mut context_there = true;
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (dst, src) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            let value = i.immediate as u32;
            at += 1;
            let read = |r: usize| registers[r].expect("register read before written");
            match i.code {
                LOAD_WORD => {
                    assert!(src == 1 && context_there, "context clobbered");
                    registers[dst] = Some(u64::from(context[i.offset as usize / 4]));
                }
                AND => registers[dst] = Some(u64::from(read(dst) as u32 & value)),
                SHIFT_RIGHT => registers[dst] = Some(u64::from(read(dst) as u32 >> value)),
                MOVE => registers[dst] = Some(u64::from(value)),
                COPY => registers[dst] = Some(u64::from(read(src) as u32)),
                JUMP_EQUAL if read(dst) == i.immediate as i64 as u64 => at += i.offset as usize,
                JUMP_UNEQUAL if read(dst) != i.immediate as i64 as u64 => at += i.offset as usize,
                JUMP_EQUAL | JUMP_UNEQUAL => {}
                EXIT => return read(0) != 0,
                other => panic!("unknown instruction {other:#x}"),
            }
            context_there &= dst != 1 || !matches!(i.code, COPY | MOVE);
        }
    }

    fn rule(allow: bool, kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule { allow, nodes: Some(Nodes { kind, major, minor }), access }
    }

    #[test]
    fn the_defaults() {
        let program = program(&parse(&[], true).unwrap());
        assert!(run(&program, Kind::Char, 1, 3, READ | WRITE));
        assert!(run(&program, Kind::Char, 136, 17, ALL));
        assert!(run(&program, Kind::Block, 8, 0, MKNOD));
        assert!(!run(&program, Kind::Block, 8, 0, READ));
        assert!(!run(&program, Kind::Char, 1, 1, READ | MKNOD));
    }

    #[test]
    fn accesses_of_one_request_may_be_allowed_by_several_rules() {
        let rules = [
            rule(true, Kind::Char, Some(9), Some(9), READ),
            rule(true, Kind::Char, None, None, WRITE),
        ];
        let program = program(&rules);
        assert!(run(&program, Kind::Char, 9, 9, READ | WRITE));
        assert!(!run(&program, Kind::Char, 9, 8, READ | WRITE));
        assert!(!run(&program, Kind::Char, 9, 9, ALL));
        assert!(!run(&program, Kind::Block, 9, 9, READ));
    }

    #[test]
    fn a_later_denial_wins_over_a_wider_allowance() {
        let rules = [
            Rule { allow: true, nodes: None, access: ALL },
            rule(false, Kind::Char, Some(10), Some(229), WRITE),
            rule(false, Kind::Block, Some(7), None, ALL),
        ];
        let program = program(&rules);
        assert!(run(&program, Kind::Char, 10, 229, READ));
        assert!(!run(&program, Kind::Char, 10, 229, READ | WRITE));
        assert!(!run(&program, Kind::Block, 7, 5, MKNOD));
        assert!(run(&program, Kind::Block, 8, 5, ALL));
        assert!(!allows_everything(&rules));
        assert!(allows_everything(&rules[..1]));
    }

    /// Every short list gives the answer that trying the rules one after another gives.
    #[test]
    fn agrees_with_the_rules_taken_one_by_one() {
        let mut seed = 7u32;
        let mut next = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % below
        };
        for _ in 0..400 {
            let rules: Vec<Rule> = (0..next(7))
                .map(|_| {
                    let number = |n: u32| (n != 0).then_some(n);
                    let kind = if next(2) == 0 { Kind::Block } else { Kind::Char };
                    let access = next(8) as u8;
                    let nodes = Nodes { kind, major: number(next(3)), minor: number(next(3)) };
                    Rule { allow: next(2) == 0, nodes: (next(6) != 0).then_some(nodes), access }
                })
                .collect();
            let program = program(&rules);
            for (kind, major, minor, access) in [
                (Kind::Block, 1, 1, READ),
                (Kind::Char, 1, 2, ALL),
                (Kind::Char, 2, 1, READ | WRITE),
                (Kind::Block, 2, 2, MKNOD),
            ] {
                let mut allowed = 0u8;
                for rule in &rules {
                    let hit = rule.nodes.is_none_or(|n| {
                        n.kind == kind
                            && n.major.is_none_or(|m| m == major)
                            && n.minor.is_none_or(|m| m == minor)
                    });
                    let bits = if rule.nodes.is_none() { ALL } else { rule.access };
                    match (hit, rule.allow) {
                        (false, _) => {}
                        (true, true) => allowed |= bits,
                        (true, false) => allowed &= !bits,
                    }
                }
                assert_eq!(
                    run(&program, kind, major, minor, access),
                    allowed & access == access,
                    "{rules:?}"
                );
            }
        }
    }
}
