//! Reads of the current task: its user registers, its user memory, fields of its `task_struct`.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_perf_event_data, pt_regs},
    helpers::{
        bpf_probe_read_kernel, bpf_probe_read_user_buf,
        generated::{self, bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    programs::PerfEventContext,
};
use profiler_common::{
    frame::Position,
    step::{AllRegisters, UserMemory},
    stop::StopReason,
};

use crate::maps::CONFIG;

/// Size of a kernel stack. Source: `THREAD_SIZE` in `arch/x86/include/asm/page_64_types.h`, without
/// KASAN. Only the flavour for kernels before 5.17 uses it.
const KERNEL_STACK_BYTES: u64 = 16 << 10;

/// The code segment of 32-bit tasks. Source: `__USER32_CS` in `arch/x86/include/asm/segment.h`.
const USER_CS_32: u64 = 0x23;

/// System calls that run another program. Source: `arch/x86/entry/syscalls/syscall_64.tbl`.
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;

/// The instructions by which 64-bit code calls the kernel.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const INT_80: [u8; 2] = [0xcd, 0x80];

/// The low bits of `cs` hold the privilege level: 3 in user code.
const USER_PRIVILEGE: u64 = 3;

/// How to find the registers with which a task entered the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RegisterSource {
    /// `bpf_task_pt_regs` (5.15 and later).
    Helper,
    /// The top of the task's kernel stack, whose offset in `task_struct` the loader read from BTF.
    TaskStack,
}

/// Whether the tick fell in user code.
#[inline(always)]
pub fn in_user_code(ctx: &PerfEventContext) -> bool {
    let data = ctx.as_ptr().cast::<bpf_perf_event_data>();
    // SAFETY: the context of a perf_event program is a `bpf_perf_event_data`.
    let cs = unsafe { (*data).regs.cs };
    cs & USER_PRIVILEGE == USER_PRIVILEGE
}

/// Takes the current task's registers in user code: where it is, or where it will return to.
/// `entry` is room for what the task entered the kernel with.
///
/// # Errors
/// [`StopReason::Absent`] for a task without user code: a kernel thread, one that ends, one that is
/// about to run another program.
#[inline(always)]
pub fn user_registers(
    ctx: &PerfEventContext,
    source: RegisterSource,
    entry: &mut pt_regs,
    registers: &mut AllRegisters,
) -> Result<Position, StopReason> {
    if in_user_code(ctx) {
        let data = ctx.as_ptr().cast::<bpf_perf_event_data>();
        // SAFETY: the context of a perf_event program is a `bpf_perf_event_data`.
        let regs = unsafe { &raw const (*data).regs };
        // SAFETY: as above.
        if unsafe { (*regs).cs } == USER_CS_32 {
            return Err(StopReason::Code32Bit);
        }
        // SAFETY: as above.
        unsafe { by_dwarf_number(regs, registers) };
        return Ok(Position::Exact);
    }
    read_entry_registers(source, entry).ok_or(StopReason::RegistersUnreadable)?;
    if !has_user_memory(entry) {
        return Err(StopReason::Absent);
    }
    if entry.cs & USER_PRIVILEGE != USER_PRIVILEGE || entry.rip == 0 {
        return Err(StopReason::Absent);
    }
    if entry.cs == USER_CS_32 {
        return Err(StopReason::Code32Bit);
    }
    // SAFETY: a reference is valid.
    unsafe { by_dwarf_number(entry, registers) };
    // The kernel keeps the number of the system call here, and -1 for interrupts and faults. A program
    // that begins has that of the call that runs it, and zeros where that had its arguments.
    let begins = runs_program(entry) && (entry.rdi | entry.rsi) == 0;
    Ok(
        if (entry.orig_rax as i64) >= 0 && !begins && follows_system_call(entry) {
            Position::ReturnAddress
        } else {
            Position::Exact
        },
    )
}

/// Whether a task that is in the kernel has the memory that it had in user code. One that ends has given
/// it back. One that runs another program has that one's, while its registers are still the old
/// ones, until the kernel has put together all of the program's memory.
/// Source: `exit_mm` in the kernel's `kernel/exit.c`; `begin_new_exec` in `fs/exec.c`, which takes a new
/// `mm_struct` of zeros, and `load_elf_binary` in `fs/binfmt_elf.c`.
#[inline(always)]
fn has_user_memory(entry: &pt_regs) -> bool {
    // SAFETY: gives the current task's address.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let config = CONFIG.load();
    let Some(memory) = read_kernel_u64(task, config.task_mm_offset) else {
        return true;
    };
    if memory == 0 {
        return false;
    }
    if !runs_program(entry) {
        return true;
    }
    read_kernel_u64(memory as *const u8, config.mm_end_code_offset) != Some(0)
}

/// Whether user code goes on behind the instruction that called the kernel: not if a signal's handler
/// begins before that. The instruction leaves the address behind it in rcx, which the kernel keeps;
/// where that was changed meanwhile, as by another processor's way to call the kernel (FRED), the
/// code tells.
#[inline(always)]
fn follows_system_call(entry: &pt_regs) -> bool {
    if entry.rcx == entry.rip {
        return true;
    }
    let before = CurrentMemory.read(entry.rip.wrapping_sub(SYSCALL.len() as u64));
    before.is_none_or(|code| code == SYSCALL || code == INT_80)
}

#[inline(always)]
const fn runs_program(entry: &pt_regs) -> bool {
    entry.orig_rax == EXECVE || entry.orig_rax == EXECVEAT
}

/// The registers by their DWARF numbers: System V ABI for x86-64, figure 3.36.
///
/// # Safety
/// `regs` can be read.
#[inline(always)]
unsafe fn by_dwarf_number(regs: *const pt_regs, registers: &mut AllRegisters) {
    macro_rules! take {
        ($($number:literal $register:ident),*) => {
            $(
                // SAFETY: the caller says so.
                registers[$number] = unsafe { (*regs).$register };
            )*
        };
    }
    take!(
        0 rax, 1 rdx, 2 rcx, 3 rbx, 4 rsi, 5 rdi, 6 rbp, 7 rsp,
        8 r8, 9 r9, 10 r10, 11 r11, 12 r12, 13 r13, 14 r14, 15 r15, 16 rip
    );
}

#[inline(always)]
fn read_entry_registers(source: RegisterSource, entry: &mut pt_regs) -> Option<()> {
    let regs = match source {
        RegisterSource::Helper => {
            // SAFETY: gives the current task, which lives as long as the program runs.
            let task = unsafe { bpf_get_current_task_btf() };
            // SAFETY: `task` is a task, fresh from the helper.
            unsafe { bpf_task_pt_regs(task) as u64 }
        }
        RegisterSource::TaskStack => {
            // SAFETY: gives the current task's address.
            let task = unsafe { bpf_get_current_task() };
            let field = task.wrapping_add(u64::from(CONFIG.load().task_stack_offset)) as *const u64;
            // SAFETY: the helper checks the address; a bad one is an error.
            let stack = unsafe { bpf_probe_read_kernel(field) }.ok()?;
            let top = stack.wrapping_add(KERNEL_STACK_BYTES);
            top.wrapping_sub(size_of::<pt_regs>() as u64)
        }
    };
    let bytes = size_of::<pt_regs>() as u32;
    let room = core::ptr::from_mut(entry).cast();
    // SAFETY: the helper checks the source address, and the destination has that many bytes.
    let failed = unsafe { generated::bpf_probe_read_kernel(room, bytes, regs as *const c_void) };
    (failed == 0).then_some(())
}

/// A 32-bit field of a structure of the kernel's.
#[inline(always)]
pub fn read_kernel_u32(structure: *const u8, offset: u32) -> Option<u32> {
    let field = structure.wrapping_add(offset as usize).cast::<u32>();
    // SAFETY: the helper checks the address; a bad one is an error.
    unsafe { bpf_probe_read_kernel(field) }.ok()
}

/// A 64-bit field of a structure of the kernel's.
#[inline(always)]
pub fn read_kernel_u64(structure: *const u8, offset: u32) -> Option<u64> {
    let field = structure.wrapping_add(offset as usize).cast::<u64>();
    // SAFETY: the helper checks the address; a bad one is an error.
    unsafe { bpf_probe_read_kernel(field) }.ok()
}

/// The memory of the current task.
pub struct CurrentMemory;

impl UserMemory for CurrentMemory {
    #[inline(always)]
    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper checks the address; a bad one is an error.
        let read = unsafe { bpf_probe_read_user_buf(address as *const u8, &mut bytes) };
        read.ok().map(|()| bytes)
    }
}
