//! What a few bytes of x86-64 machine code tell about the stack.
//!
//! Source of the encodings: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2
//! (`CALL`, `RET`, `PUSH`, chapter 2.1 on ModR/M and SIB bytes).

/// Bytes before a return address that [`follows_call`] wants.
pub const CALL_BYTES: usize = 8;

/// Bytes around the innermost pc that [`leaf_return_slot`] wants; the first lies before the pc.
pub const LEAF_BYTES: usize = 16;

/// Whether an instruction that ends at a return address may be a call, given the bytes before it.
///
/// A near call is `E8 rel32` or `FF /2` with any addressing form. Every return address follows
/// one, so a value that does not is no return address.
#[inline(always)]
#[must_use]
pub fn follows_call(before: &[u8; CALL_BYTES]) -> bool {
    before[3] == 0xe8 || follows_indirect_call(before)
}

/// Whether an instruction that ends at a return address may be a call by a pointer, given the bytes
/// before it.
#[inline(always)]
#[must_use]
pub fn follows_indirect_call(before: &[u8; CALL_BYTES]) -> bool {
    let mut length = 2;
    while length <= 7 {
        let at = CALL_BYTES - length;
        if before[at] == 0xff && indirect_call_length(before[at + 1], before, at + 2) == length {
            return true;
        }
        length += 1;
    }
    false
}

/// Length of the instruction `FF modrm …` if it is a near indirect call, else 0.
#[inline(always)]
fn indirect_call_length(modrm: u8, bytes: &[u8; CALL_BYTES], sib_at: usize) -> usize {
    if (modrm >> 3) & 7 != 2 {
        return 0;
    }
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let sib = if rm == 4 && mode != 3 { 1 } else { 0 };
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if sib == 1 && sib_at < CALL_BYTES && bytes[sib_at] & 7 == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    2 + sib + displacement
}

/// Where the return address of the innermost function lies, in bytes from the stack pointer, when
/// the code at the pc settles it: at a function's first instructions, before its frame is set up,
/// and where nothing but a return is left to run. `code[1]` is the byte at the pc.
///
/// A frame-pointer step from there would miss the caller. `None` says nothing either way.
#[inline(always)]
#[must_use]
pub fn leaf_return_slot(code: &[u8; LEAF_BYTES]) -> Option<u64> {
    const PUSH_RBP: u8 = 0x55;
    const RET: u8 = 0xc3;
    let at_push = code[1] == PUSH_RBP;
    let endbr64 = code[1] == 0xf3 && code[2] == 0x0f && code[3] == 0x1e && code[4] == 0xfa;
    let at_ret = code[1] == RET || (code[1] == 0xf3 && code[2] == RET);
    // A system call wrapper: cmp $-4096,%rax; ja error; ret. The stack pointer stays as it is.
    let compares = code[1] == 0x48
        && code[2] == 0x3d
        && code[3] <= 0x01
        && code[4] == 0xf0
        && code[5] == 0xff
        && code[6] == 0xff;
    let wrapper = compares && code[7] == 0x77 && code[9] == RET;
    if at_push || (endbr64 && code[5] == PUSH_RBP) || at_ret || wrapper {
        return Some(0);
    }
    // Between push %rbp and mov %rsp,%rbp.
    if code[0] == PUSH_RBP
        && code[1] == 0x48
        && ((code[2] == 0x89 && code[3] == 0xe5) || (code[2] == 0x8b && code[3] == 0xec))
    {
        return Some(8);
    }
    None
}

/// Where a direct call leads, given the five bytes that end at the return address.
#[inline(always)]
#[must_use]
pub fn call_target(return_address: u64, before: &[u8; 5]) -> Option<u64> {
    let distance = i32::from_ne_bytes([before[1], before[2], before[3], before[4]]);
    (before[0] == 0xe8).then(|| return_address.wrapping_add_signed(i64::from(distance)))
}

/// Bytes at the start of a PLT entry that [`plt_slot`] wants.
pub const PLT_BYTES: usize = 12;

/// The address of the pointer that a PLT entry jumps by: `jmp *rel(%rip)`, behind `endbr64` and a
/// `bnd` prefix where the linker writes them.
#[inline(always)]
#[must_use]
pub fn plt_slot(address: u64, code: &[u8; PLT_BYTES]) -> Option<u64> {
    let marked = code[0] == 0xf3 && code[1] == 0x0f && code[2] == 0x1e && code[3] == 0xfa;
    let at = if !marked {
        0
    } else if code[4] == 0xf2 {
        5
    } else {
        4
    };
    if code[at] != 0xff || code[at + 1] != 0x25 {
        return None;
    }
    let distance = i32::from_ne_bytes([code[at + 2], code[at + 3], code[at + 4], code[at + 5]]);
    let end = address.wrapping_add(at as u64 + 6);
    Some(end.wrapping_add_signed(i64::from(distance)))
}

/// Bytes of [`SIGNAL_RETURN`].
pub const SIGNAL_RETURN_BYTES: usize = 9;

/// What a signal handler returns into: `mov $15, %rax; syscall`, where 15 is `rt_sigreturn`.
/// Source: `struct rt_sigframe`'s `pretcode` as C libraries and the Go runtime set it.
pub const SIGNAL_RETURN: [u8; SIGNAL_RETURN_BYTES] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// As many bytes of what a context's first function returns to, which nobody called.
/// Source: `mov %rbx,%rsp; mov (%rsp),%rdi; test %rdi,%rdi`, the start of glibc's `__start_context`
/// (`sysdeps/unix/sysv/linux/x86_64/__start_context.S`).
pub const START_CONTEXT: [u8; SIGNAL_RETURN_BYTES] =
    [0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85];

/// Bytes before or behind an address that [`ends_thread`] and [`follows_clone`] want.
pub const THREAD_BYTES: usize = 8;

/// Whether a thread's first function returns to this code, which has no description: musl's `__clone`
/// makes the system call `exit` then. `after` begins at the return address.
/// Source: musl's `src/thread/x86_64/clone.s`.
#[inline(always)]
#[must_use]
pub fn ends_thread(after: &[u8; THREAD_BYTES]) -> bool {
    // mov %eax, %edi; xor %eax, %eax; mov $60, %al; syscall
    same(after, &[0x89, 0xc7, 0x31, 0xc0, 0xb0, 0x3c, 0x0f, 0x05])
}

/// Whether this code follows the system call that makes a thread with a stack of its own. The new
/// thread finds 0 in rax there, and nothing on its stack. C libraries leave that code undescribed,
/// because the caller and the new thread have different stacks.
/// Source: `clone.S` and `clone3.S` in glibc's `sysdeps/unix/sysv/linux/x86_64/`, musl's
/// `src/thread/x86_64/clone.s`.
#[inline(always)]
#[must_use]
pub fn follows_clone(before: &[u8; THREAD_BYTES], after: &[u8; THREAD_BYTES]) -> bool {
    let [_, call @ ..] = before;
    // mov $SYS_clone, %eax; syscall
    let clone = same(call, &[0xb8, 0x38, 0, 0, 0, 0x0f, 0x05]);
    // mov $SYS_clone3, %eax; syscall
    let clone3 = same(call, &[0xb8, 0xb3, 0x01, 0, 0, 0x0f, 0x05]);
    // test %eax, %eax; jnz; xor %ebp, %ebp; pop %rdi; the start of call *%r9
    let musl = same(after, &[0x85, 0xc0, 0x75, 0x0f, 0x31, 0xed, 0x5f, 0x41]);
    clone | clone3 | musl
}

#[inline(always)]
pub(crate) fn same<const N: usize>(one: &[u8; N], other: &[u8; N]) -> bool {
    // Verifier: one comparison at the end, no branch for each byte.
    let (mut i, mut differing) = (0, 0);
    while i < N {
        differing |= one[i] ^ other[i];
        i += 1;
    }
    differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_call(instruction: &[u8], expected: bool) {
        let mut before = [0x90; CALL_BYTES];
        before[CALL_BYTES - instruction.len()..].copy_from_slice(instruction);
        assert_eq!(follows_call(&before), expected, "{instruction:02x?}");
    }

    #[test]
    fn every_form_of_near_call_is_known() {
        check_call(&[0xe8, 1, 2, 3, 4], true); // call rel32
        check_call(&[0xff, 0xd0], true); // call *%rax
        check_call(&[0x41, 0xff, 0xd7], true); // call *%r15
        check_call(&[0xff, 0x10], true); // call *(%rax)
        check_call(&[0xff, 0x14, 0x24], true); // call *(%rsp)
        check_call(&[0xff, 0x50, 0x18], true); // call *0x18(%rax)
        check_call(&[0xff, 0x54, 0x24, 0x08], true); // call *8(%rsp)
        check_call(&[0xff, 0x15, 1, 2, 3, 4], true); // call *rel(%rip)
        check_call(&[0xff, 0x90, 1, 2, 3, 4], true); // call *disp32(%rax)
        check_call(&[0xff, 0x94, 0xc4, 1, 2, 3, 4], true); // call *disp32(%rsp,%rax,8)
        check_call(&[0xff, 0x14, 0xc5, 1, 2, 3, 4], true); // call *disp32(,%rax,8)
    }

    #[test]
    fn other_instructions_are_no_calls() {
        check_call(&[0xc3], false); // ret
        check_call(&[0xff, 0xe0], false); // jmp *%rax
        check_call(&[0xff, 0x25, 1, 2, 3, 4], false); // jmp *rel(%rip)
        check_call(&[0xe9, 1, 2, 3, 4], false); // jmp rel32
        check_call(&[0x48, 0x89, 0xe5], false); // mov %rsp,%rbp
        check_call(&[0xff, 0x10, 0x90], false); // call *(%rax); nop
        check_call(&[0; 8], false);
    }

    #[track_caller]
    fn check_leaf(before: u8, code: &[u8], expected: Option<u64>) {
        let mut bytes = [0x90; LEAF_BYTES];
        bytes[0] = before;
        bytes[1..=code.len()].copy_from_slice(code);
        assert_eq!(
            leaf_return_slot(&bytes),
            expected,
            "{before:02x} | {code:02x?}"
        );
    }

    #[test]
    fn prologues_and_returns_settle_where_the_return_address_is() {
        check_leaf(0x90, &[0x55], Some(0));
        check_leaf(0x90, &[0xf3, 0x0f, 0x1e, 0xfa, 0x55], Some(0));
        check_leaf(0x55, &[0x48, 0x89, 0xe5], Some(8));
        check_leaf(0x90, &[0xc3], Some(0));
        check_leaf(0x90, &[0xf3, 0xc3], Some(0));
        check_leaf(
            0x05,
            &[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x01, 0xc3],
            Some(0),
        );
    }

    #[test]
    fn where_threads_begin_and_end_is_known_by_its_bytes() {
        let musl = [0x85, 0xc0, 0x75, 0x0f, 0x31, 0xed, 0x5f, 0x41];
        let clone = [0x90, 0xb8, 0x38, 0, 0, 0, 0x0f, 0x05];
        let clone3 = [0x90, 0xb8, 0xb3, 0x01, 0, 0, 0x0f, 0x05];
        let read = [0x90, 0xb8, 0, 0, 0, 0, 0x0f, 0x05];
        let other = [0x90; THREAD_BYTES];
        assert!(follows_clone(&clone, &other));
        assert!(follows_clone(&clone3, &other));
        assert!(follows_clone(&other, &musl));
        assert!(!follows_clone(&read, &other));
        assert!(!follows_clone(&other, &clone));
        assert!(ends_thread(&[
            0x89, 0xc7, 0x31, 0xc0, 0xb0, 0x3c, 0x0f, 0x05
        ]));
        assert!(!ends_thread(&musl));
    }

    #[test]
    fn code_inside_a_function_settles_nothing() {
        check_leaf(0x90, &[0xf3, 0x0f, 0x1e, 0xfa, 0x48], None);
        check_leaf(0x90, &[0x48, 0x89, 0xe5], None);
        check_leaf(
            0x05,
            &[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x01, 0x5d, 0xc3],
            None,
        );
        check_leaf(0x90, &[0x90], None);
    }
}
