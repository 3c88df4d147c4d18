//! Reads of the current task: its user registers, its user memory, fields of its `task_struct`.

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_perf_event_data, pt_regs},
    helpers::{
        bpf_probe_read_kernel, bpf_probe_read_user_buf,
        generated::{bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    programs::PerfEventContext,
};
use profiler_common::{
    frame::Position,
    step::{Registers, UserMemory},
    stop::StopReason,
};

use crate::maps::CONFIG;

/// Size of a kernel stack. Source: `THREAD_SIZE` in `arch/x86/include/asm/page_64_types.h`, without
/// KASAN. Only the flavour for kernels before 5.17 uses it.
const KERNEL_STACK_BYTES: u64 = 16 << 10;

/// The code segment of 32-bit tasks. Source: `__USER32_CS` in `arch/x86/include/asm/segment.h`.
const USER_CS_32: u64 = 0x23;

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

/// User registers, and whether the pc in them is a return address.
pub struct UserRegisters {
    /// The registers.
    pub registers: Registers,
    /// [`Position::ReturnAddress`] in a system call: the pc is the address after `syscall`.
    pub position: Position,
}

/// Whether the tick fell in user code.
#[inline(always)]
pub fn in_user_code(ctx: &PerfEventContext) -> bool {
    let data = ctx.as_ptr().cast::<bpf_perf_event_data>();
    // SAFETY: the context of a perf_event program is a `bpf_perf_event_data`.
    let cs = unsafe { (*data).regs.cs };
    cs & USER_PRIVILEGE == USER_PRIVILEGE
}

/// The current task's registers in user code: where it is, or where it will return to.
///
/// # Errors
/// [`StopReason::Absent`] for a task without user code (a kernel thread).
#[inline(always)]
pub fn user_registers(
    ctx: &PerfEventContext,
    source: RegisterSource,
) -> Result<UserRegisters, StopReason> {
    if in_user_code(ctx) {
        let data = ctx.as_ptr().cast::<bpf_perf_event_data>();
        // SAFETY: the context of a perf_event program is a `bpf_perf_event_data`.
        if unsafe { (*data).regs.cs } == USER_CS_32 {
            return Err(StopReason::Code32Bit);
        }
        // SAFETY: as above.
        let pc = unsafe { (*data).regs.rip };
        // SAFETY: as above.
        let sp = unsafe { (*data).regs.rsp };
        // SAFETY: as above.
        let fp = unsafe { (*data).regs.rbp };
        return Ok(UserRegisters {
            registers: Registers { pc, sp, fp },
            position: Position::Exact,
        });
    }
    let regs = match source {
        RegisterSource::Helper => entry_registers_by_helper(),
        RegisterSource::TaskStack => entry_registers_by_task_stack(),
    };
    let Some(regs) = regs else {
        return Err(StopReason::RegistersUnreadable);
    };
    if regs.cs & USER_PRIVILEGE != USER_PRIVILEGE || regs.rip == 0 {
        return Err(StopReason::Absent);
    }
    if regs.cs == USER_CS_32 {
        return Err(StopReason::Code32Bit);
    }
    // The kernel keeps the number of the system call here, and -1 for interrupts and faults.
    let position = if (regs.orig_rax as i64) >= 0 {
        Position::ReturnAddress
    } else {
        Position::Exact
    };
    let registers = Registers {
        pc: regs.rip,
        sp: regs.rsp,
        fp: regs.rbp,
    };
    Ok(UserRegisters {
        registers,
        position,
    })
}

#[inline(always)]
fn entry_registers_by_helper() -> Option<pt_regs> {
    // SAFETY: gives the current task, which lives as long as the program runs.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: `task` is a task, fresh from the helper.
    let regs = unsafe { bpf_task_pt_regs(task) } as *const pt_regs;
    // SAFETY: the helper checks the address; a bad one is an error.
    unsafe { bpf_probe_read_kernel(regs) }.ok()
}

#[inline(always)]
fn entry_registers_by_task_stack() -> Option<pt_regs> {
    // SAFETY: gives the current task's address.
    let task = unsafe { bpf_get_current_task() };
    let field = task.wrapping_add(u64::from(CONFIG.load().task_stack_offset)) as *const u64;
    // SAFETY: the helper checks the address; a bad one is an error.
    let stack = unsafe { bpf_probe_read_kernel(field) }.ok()?;
    let top = stack.wrapping_add(KERNEL_STACK_BYTES);
    let regs = top.wrapping_sub(size_of::<pt_regs>() as u64) as *const pt_regs;
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel(regs) }.ok()
}

/// A 32-bit field of a `task_struct`.
#[inline(always)]
pub fn read_task_u32(task: *const u8, offset: u32) -> Option<u32> {
    let field = task.wrapping_add(offset as usize).cast::<u32>();
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
