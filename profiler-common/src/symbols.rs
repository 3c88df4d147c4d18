//! Names of kernel addresses, as the kernel prints them: what the program `print_symbols` is given
//! and what it hands over.

/// Addresses that one run names: the arguments of a raw tracepoint.
/// Source: `MAX_BPF_FUNC_ARGS` in `include/linux/bpf.h`; `bpf_snprintf` prints as many values
/// (`MAX_BPRINTF_VARARGS`).
pub const ADDRESSES_AT_ONCE: usize = 12;

/// The longest text that the kernel prints for one address.
/// Source: `KSYM_SYMBOL_LEN` in `include/linux/kallsyms.h`; 666 since 6.1, less before.
pub const SYMBOL_BYTES: usize = 672;

/// Room for the lines of one run.
pub const TEXT_BYTES: usize = ADDRESSES_AT_ONCE * SYMBOL_BYTES;

/// One line for each address: its symbol, with the module in brackets if it lies in one, or the
/// address where the kernel knows none. The value of the map `SYMBOLS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrintedSymbols {
    /// Bytes printed, with the closing NUL; or an error number below 0.
    pub length: i64,
    /// The lines.
    pub text: [u8; TEXT_BYTES],
}

const _: () = assert!(
    size_of::<PrintedSymbols>() == 8 + TEXT_BYTES,
    "no hidden padding"
);

// SAFETY: `repr(C)`, no hidden padding (asserted above), and every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for PrintedSymbols {}
